"""One page with pictures and a table from the folders that runs left behind."""
