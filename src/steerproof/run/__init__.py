"""What makes it happen: the graph of units, the store, the executors."""
