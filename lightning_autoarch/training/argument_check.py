"""Check that candidates are what the space asks for, before a search of hours begins.

A candidate differs from the others only if `__init__` uses the value. Shapes cannot tell (a learning rate changes
none), but the hyperparameters that the built module saves can:

    saved as asked                        The value was used.
    saved, but as the module given to     The value was ignored. If every value that is tried is, it is an error: all
    `fit` has it, whatever was asked      scores would be those of one module under different names.
    saved as something else               The module saves a derived value (rounded up to a multiple of 8, clipped to a
                                          maximum). Many modules do so on purpose, so this is a warning: the study and
                                          `hparams` will differ.
    not saved                             A warning: a checkpoint of the winner will not contain the value.
    saved as asked, but used nowhere      A warning, see below.

It is also an error if neither a candidate nor the unchanged module can be built: the module does not save what its
`__init__` takes (but, for example, the hyperparameters of its parts), and every trial would fail.

A single value that comes back as the original module had it may be the effect of clipping, so several are tried before
this is an error. Values that cannot be compared (an object that was made from a name) count as used.

A value that goes into `**kwargs` is saved even if nothing uses it:

    class Net(Base):
        def __init__(self, **kwargs):
            super().__init__()              # `width` is not passed on
            self.save_hyperparameters()     # but is saved

What is built is then the same for every value. That also holds for a learning rate that is read from `hparams` later.
So a name counts as unused only if, in addition, no other method of the class or its bases mentions it, or reads all
hyperparameters at once.
"""

from __future__ import annotations

import enum
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.arguments import Constructor
from lightning_autoarch.training.nested import fields_of

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
    except (OSError, TypeError):  # a class without a file, as in a prompt: its source cannot be searched
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
    """The visible structure of an object: its layers, the shapes of its tensors, and its public attributes."""
    values = vars(made).items()
    attributes = [(name, repr(value)) for name, value in values if not _SET_BY_LIGHTNING.match(name)]
    if not isinstance(made, nn.Module):
        return "", [], attributes
    tensors = [*made.named_parameters(), *made.named_buffers()]
    return repr(made), [(name, tuple(tensor.shape)) for name, tensor in tensors], attributes


_MOST_BUILDS = 4  # one is enough where every name is taken
_FACTORY = "ArchitectureSearch(factory=lambda **architecture: ...)"


def check_taken(
    constructor: Constructor,
    build: Callable[[Architecture], Any],
    original: Any,
    draws: Iterable[Architecture],
    prefix: str = "",
) -> None:
    """Build some candidates and compare the hyperparameters that they save with the values asked for.

    Args:
        constructor: of the module or datamodule.
        build: makes a candidate.
        original: what the candidates are like.
        draws: architectures of the space, without prefix; those that cannot be built are skipped.
        prefix: of the names in the space.

    Raises:
        SearchError: a name of the space is ignored, or nothing can be built, not even the original again.
    """
    ignored: dict[str, tuple[Any, Any]] = {}
    settled: set[str] = set()
    builds, failures, taken = 0, 0, dict[str, Any]()
    for architecture in draws:
        open_names = [
            name for name in architecture if name not in settled and _tells(constructor, original, architecture, name)
        ]
        if not open_names or builds == _MOST_BUILDS:
            continue
        builds += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = build(architecture)
        except SpaceError:
            raise
        except Exception:  # an impossible architecture is a failed trial, not the end of the search
            failures += 1
            continue
        for name in open_names:
            verdict = _verdict(constructor, original, made, name, architecture[name])
            if verdict == "ignored":
                ignored.setdefault(name, (architecture[name], constructor.saved_by(made, name)))
                continue
            if verdict == "taken":
                taken[name] = architecture[name]
            settled.add(name)
            ignored.pop(name, None)
            _tell(verdict, prefix + name, architecture[name], constructor, made, name)
    if 0 < builds == failures:
        _check_same_again(constructor, build, prefix)
    if ignored:
        raise SearchError(_not_taken(ignored, prefix, constructor.cls.__name__))
    warn_of_unused(constructor.cls, build, taken, prefix)


def _check_same_again(constructor: Constructor, build: Callable[[Architecture], Any], prefix: str) -> None:
    """Raise SearchError if the original cannot be built again without any change."""
    try:
        build({})
    except Exception as error:  # whatever `__init__` raises
        kind = constructor.cls.__name__
        otherwise = "" if prefix else f", or give {_FACTORY}"
        raise SearchError(
            f"{kind} cannot be made again from the hyperparameters that it has saved, so every trial would fail: "
            f"{type(error).__name__}: {error!s:.200}. Let `save_hyperparameters` save what `{kind}.__init__` takes"
            f"{otherwise}."
        ) from error


def plain(value: Any) -> Any:
    """A value as lists, dicts with names as keys, and scalars, so that equal ones compare equal."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    if type(value).__name__ == "ListConfig" or isinstance(value, list | tuple):
        return [plain(item) for item in value]
    fields = fields_of(value)
    return value if fields is None else {name: plain(item) for name, item in fields.items()}


def _tells(constructor: Constructor, original: Any, architecture: Architecture, name: str) -> bool:
    """Whether the value differs from the original's, without which nothing shows whether it was used."""
    try:
        return _differ(plain(architecture[name]), plain(constructor.saved_by(original, name)))
    except KeyError:
        return True


def _verdict(constructor: Constructor, original: Any, made: Any, name: str, asked: Any) -> str:
    try:
        saved = plain(constructor.saved_by(made, name))
    except KeyError:
        return "unsaved"
    if not _differ(plain(asked), saved):
        return "taken"
    try:
        unchanged = not _differ(saved, plain(constructor.saved_by(original, name)))
    except KeyError:
        unchanged = False
    if not _comparable(plain(asked), saved):
        return "taken"
    return "ignored" if unchanged else "derived"


def _differ(a: Any, b: Any) -> bool:
    try:
        return bool(a != b)
    except Exception:  # arrays and other objects with a comparison of their own
        return False


def _comparable(asked: Any, saved: Any) -> bool:
    """Whether both are numbers, strings, lists or dicts. Otherwise one was made from the other."""
    kinds = (bool | int | float, str, list, dict)
    return any(isinstance(asked, kind) and isinstance(saved, kind) for kind in kinds)


def _tell(verdict: str, full: str, asked: Any, constructor: Constructor, made: Any, name: str) -> None:
    kind = constructor.cls.__name__
    if verdict == "derived":
        rank_zero_warn(
            f"`{full}` of the space: asked {asked!r}, {kind} saved {constructor.saved_by(made, name)!r}. The study "
            "shows what was asked, the module's `hparams` and checkpoints what it saved."
        )
    elif verdict == "unsaved":
        rank_zero_warn(
            f"`{full}` of the space is not among the hyperparameters that {kind} saves, so a checkpoint of the winner "
            f"does not hold it: `load_from_checkpoint` will need it as an argument. Let `save_hyperparameters` save it."
        )


def _not_taken(ignored: Mapping[str, tuple[Any, Any]], prefix: str, kind: str) -> str:
    lines = [
        f"asked {prefix}{name}={asked!r}, {kind} saved {name}={saved!r}" for name, (asked, saved) in ignored.items()
    ]
    return (
        f"What is built is not what the space asks for: {'; '.join(lines)}, whatever the value. Every candidate "
        f"would be the same. Let `{kind}.__init__` take its arguments from its parameters, or give {_FACTORY}."
    )
