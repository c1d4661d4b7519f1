"""When each parameter of a model is trained, and how fast: decided from names alone."""
