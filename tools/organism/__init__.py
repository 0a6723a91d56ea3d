"""What builds the organism: corpus, training, measurement."""
