"""Training: models on shards, their evaluation and their results."""
