"""Text in: documents -> deduplicated splits -> token shards -> batches in an order that is a function."""
