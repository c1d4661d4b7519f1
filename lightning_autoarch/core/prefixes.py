"""Prefixes that say whose argument a name of a search space sets.

Without one a name is an argument of the module, `width`, or a value inside of one, `encoder.width`. `data.` stands for
the datamodule, `trainer.` for the Trainer, and each class of callbacks that has tunables declares a prefix of its own.
"""

from __future__ import annotations

DATA, TRAINER = "data", "trainer"
_declared = {DATA, TRAINER}


def declare_prefix(prefix: str) -> None:
    """Reserve a prefix for the tunables of a class of callbacks; several classes may share one."""
    _declared.add(prefix)


def prefix_of(name: str) -> str | None:
    """The declared prefix of a name; None for a name of the module.

    >>> prefix_of("data.batch_size"), prefix_of("encoder.width"), prefix_of("data")
    ('data', None, None)
    """
    first, dot, _ = name.partition(".")
    return first if dot and first in _declared else None


def declared_prefixes() -> list[str]:
    """All prefixes that are declared so far."""
    return sorted(_declared)
