"""What made the data and the figures that the documents show; nothing here is installed."""
