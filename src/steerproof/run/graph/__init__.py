"""The graph of units: what there is to do, and each unit's key."""
