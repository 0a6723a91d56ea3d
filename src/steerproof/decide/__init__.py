"""What follows: rates, statistics, verdict, report. No torch here."""
