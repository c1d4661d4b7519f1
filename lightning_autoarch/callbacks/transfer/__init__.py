"""Fine-tuning while a Trainer trains: weights taken over, layers frozen and thawed, learning rates by layer."""

from lightning_autoarch.callbacks.transfer.finetune import FineTuned, fine_tune
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.callbacks.transfer.lora import merge_lora

__all__ = ["FineTuned", "TransferLearning", "fine_tune", "merge_lora"]
