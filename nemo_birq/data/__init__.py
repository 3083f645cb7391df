"""From manifests and tar shards to batches."""
