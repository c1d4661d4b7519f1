"""Weights from wherever they are: a file, a folder, an index of shards, an address."""
