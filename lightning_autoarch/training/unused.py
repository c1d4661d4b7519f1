"""Names that a module takes by `**kwargs` and does nothing with, although Lightning saves them.

    class Net(Base):
        def __init__(self, **kwargs):
            super().__init__()              # `width` is not passed on
            self.save_hyperparameters()     # but is saved

The hyperparameters say what was asked, and every candidate is the same. A learning rate that is read from `hparams`
later looks alike in what is built, so a name counts as unused only if, in addition, no other method of the class or its
bases mentions it or takes all hyperparameters at once.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

_LIBRARIES = ("builtins", "lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torch")
_SET_BY_LIGHTNING = re.compile(r"_(?!_)")  # private attributes, the hyperparameters among them
_AT_ONCE = re.compile(r"\bhparams\b(?!\s*[.\[]\s*\w*['\"\w])")


def warn_of_unused(
    cls: type, build: Callable[[dict[str, Any]], Any], candidate: Mapping[str, Any], prefix: str = ""
) -> None:
    """Warn of the names of a candidate that change nothing in what is built and are read by no method.

    Args:
        cls: of the module or datamodule.
        build: makes one with these arguments changed.
        candidate: arguments with values that differ from those of the original.
        prefix: of the names in the space.
    """
    for name in _suspicious(cls, candidate):
        if _look(build({})) == _look(build({name: candidate[name]})):
            rank_zero_warn(
                f"`{prefix}{name}` of the space: {cls.__name__} takes it by `**kwargs` and saves it, but nothing that "
                "is built changes with it, and no method reads it. All its values would score alike: pass it on in "
                f"`{cls.__name__}.__init__`, or take it out of the space."
            )


def _suspicious(cls: type, names: Mapping[str, Any]) -> list[str]:
    """The names that go in by `**kwargs` alone and that no method but `__init__` mentions."""
    explicit = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    hidden = [name for name in names if name not in explicit and name.isidentifier()]
    if not hidden:
        return []
    try:
        text = "\n".join(_methods(cls))
    except (OSError, TypeError):  # a class without a file, as in a prompt: nothing is known of what it reads
        return []
    if _AT_ONCE.search(text):
        return []
    return [name for name in hidden if not re.search(rf"\b{re.escape(name)}\b", text)]


def _methods(cls: type) -> Iterator[str]:
    """The sources of a class and its bases without their `__init__`, whose effects show in what is built.

    Raises:
        OSError, TypeError: one has no source.
    """
    for each in cls.__mro__:
        if each.__module__.partition(".")[0] in _LIBRARIES:
            continue
        source = inspect.getsource(each)
        own = each.__dict__.get("__init__")
        yield source if own is None else source.replace(inspect.getsource(own), "")


def _look(made: Any) -> tuple[str, list[tuple[str, tuple[int, ...]]], list[tuple[str, str]]]:
    """What shows of an object: its layers, the shapes of its tensors, its public attributes."""
    values = vars(made).items()
    attributes = [(name, repr(value)) for name, value in values if not _SET_BY_LIGHTNING.match(name)]
    if not isinstance(made, nn.Module):
        return "", [], attributes
    tensors = [*made.named_parameters(), *made.named_buffers()]
    return repr(made), [(name, tuple(tensor.shape)) for name, tensor in tensors], attributes
