"""What is read off a completion or off log-probabilities: one file a readout."""
