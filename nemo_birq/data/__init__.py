"""Data loading: manifests and tar shards to batches."""
