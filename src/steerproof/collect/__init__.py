"""What the model does: generation, sampling, scoring."""
