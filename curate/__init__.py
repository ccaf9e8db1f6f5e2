"""Pools, scores, filters, subsets and shards: everything that decides which pictures a dataset holds."""
