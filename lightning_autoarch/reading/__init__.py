"""Files that `torch.save` wrote, somewhere, by somebody: read as data, in proportion to their size.

    symbols   what a pickle would build, as symbols
    budget    what it may take: memory and time in proportion to its file
    opcodes   what a pickle would do, followed without doing it
    calls     which calls `torch.save` writes, and with what
    pickled   the pickles of one file: their calls, their storages
    archive   a file, looked through and then loaded by torch
    tensors   what came out, as plain tensors

    held = read_archive(Path("from_somebody.ckpt"))     # a CheckpointError, or tensors and plain containers

Every file of this kind that the package did not write itself in the same process is read with `read_archive`.
"""

from lightning_autoarch.reading.archive import read_archive, read_part
from lightning_autoarch.reading.tensors import check_sizes, plain_tensor

__all__ = ["check_sizes", "plain_tensor", "read_archive", "read_part"]
