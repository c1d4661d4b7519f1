"""Whether what is built is what was asked for, and what the user should know before a search of hours.

A candidate is an architecture in name only if `__init__` does not take it. Shapes cannot tell (a learning rate changes
none), but the hyperparameters that the built module saves can:

    saved as asked                        it was taken
    saved, but as the module given to     it was ignored: an error, if the same happens with every value that is tried,
    `fit` has it, whatever was asked      as all scores would be those of one and the same module under different names
    saved as something else               it was taken, and the module saves a derived value (rounded up to a multiple
                                          of 8, clipped to a maximum): no error, as many modules do so on purpose, but
                                          a warning, as the study and `hparams` then differ
    not saved                             a warning: a checkpoint of the winner does not hold it
    saved as asked, but used nowhere      a warning (`training/unused.py` says how that is known)

Where no candidate can be built, nor the module itself as it was, that is an error: it does not save what `__init__`
takes (but, say, the hyperparameters of its parts), and all trials would fail.

One value that comes back as the module had it may be the effect of clipping, so several are tried before this is an
error. Values that cannot be compared (an object made of a name) count as taken.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.arguments import Constructor
from lightning_autoarch.training.nested import fields_of
from lightning_autoarch.training.unused import warn_of_unused

_MOST_BUILDS = 4  # one is enough where every name is taken
_FACTORY = "ArchitectureSearch(factory=lambda **architecture: ...)"


def check_taken(
    constructor: Constructor,
    build: Callable[[Architecture], Any],
    original: Any,
    draws: Iterable[Architecture],
    prefix: str = "",
) -> None:
    """Build some candidates, and compare what they saved with what was asked.

    Args:
        constructor: of the module or datamodule.
        build: makes a candidate.
        original: what the candidates are like.
        draws: architectures of the space, without prefix; an impossible one is passed over.
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
    """Raises SearchError where the original cannot be made again, without any change."""
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
    """Whether the value differs from the one that the original has: only then it shows if it was taken."""
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
    """Whether both are numbers, or both texts, lists or dicts: otherwise one is made of the other."""
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
