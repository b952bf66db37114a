"""Training data: documents -> deduplicated splits -> token shards -> batches in an order computed from seed and position."""
