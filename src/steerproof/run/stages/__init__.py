"""The functions that do the units: each takes tasks, calls one stage, yields files as bytes."""
