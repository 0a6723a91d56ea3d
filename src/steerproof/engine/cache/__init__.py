"""Keys and values in pages, and the attention that reads them."""
