"""What to keep: weights read from wherever they are, matched by name and shape, and a report of what was taken over.

    source   read_checkpoint   ─►  names  ─►  shapes  ─►  one commit, or none   ─►   TransferReport

    report = transfer_weights(
        model,
        "pretrained.ckpt",                              # or .pt, .safetensors, an index, a directory, https://, hf://
        rules=[("^backbone\\.", "encoder.")],
        on_mismatch="slice",
        classes={281: 0, 207: 1},                       # rows of the old output layer and of the new one
        reinit=["^decoder\\."],
    )
    print(report)                                       # 87.3% of 11,181,642 parameters taken over ...

Nothing here knows Lightning: a module is an `nn.Module`, weights are a mapping of names to tensors.
"""

from lightning_autoarch.transfer.match.coupled import Axis
from lightning_autoarch.transfer.match.report import TensorReport, TransferReport
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.read.state import LazyStateDict, StateDict
from lightning_autoarch.transfer.transfer_weights import transfer_weights

__all__ = [
    "Axis",
    "LazyStateDict",
    "StateDict",
    "TensorReport",
    "TransferReport",
    "read_checkpoint",
    "transfer_weights",
]
