"""What changes the base: directions, calibration, datasets, training."""
