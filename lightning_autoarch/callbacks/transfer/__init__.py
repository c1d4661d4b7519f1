"""Fine-tuning during a fit: weights are taken over, layers frozen and thawed, learning rates set by layer."""
