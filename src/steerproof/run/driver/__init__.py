"""Who does the units: the scheduler, executors, workers."""
