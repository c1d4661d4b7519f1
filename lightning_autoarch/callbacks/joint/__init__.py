"""Tunables of callbacks in a search space."""
