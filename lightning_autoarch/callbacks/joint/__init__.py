"""Parameters of callbacks in a search space: names with a prefix are arguments of one callback of a kind."""
