"""Files written by `torch.save`, of unknown origin: read as data, with limits in proportion to their size.

    symbols        what a pickle would build, as symbols
    budget         what reading it may cost: memory and time in proportion to its file
    opcodes        what a pickle would do, followed without executing it
    torch_calls    which calls `torch.save` writes, and with which arguments
    pickled        the pickles of one file: their calls and their storages
    archive        a file, inspected and then loaded by torch; classes that the user trusts
    plain_tensors  what was loaded, as plain tensors

    held = read_archive(Path("from_somebody.ckpt"))     # a CheckpointError, or tensors and plain containers

Every file of this kind that the package did not write itself in the same process is read with `read_archive`.
"""
