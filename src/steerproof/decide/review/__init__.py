"""What a careful reviewer asks before and after a run: plan, power, objections."""
