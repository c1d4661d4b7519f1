"""What to keep: weights read from wherever they are, matched by name and shape, and a report of what was taken over.

    source   read_checkpoint   ─►  names  ─►  shapes  ─►  one commit, or none   ─►   TransferReport

Nothing here knows Lightning: a module is an `nn.Module`, weights are a mapping of names to tensors.
"""

from lightning_autoarch.transfer.checkpoint import read_checkpoint
from lightning_autoarch.transfer.state import LazyStateDict, StateDict

__all__ = ["LazyStateDict", "StateDict", "read_checkpoint"]
