"""From a rate table to a verdict. No torch."""
