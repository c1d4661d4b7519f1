"""A callback made again with other arguments.

What the arguments were is read from the attributes of their names, as of scikit-learn's estimators, or from the
callback's method `arguments`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from lightning.pytorch import Callback

from lightning_autoarch.core.errors import SearchError

_KEPT_AS = {"sparsity": "target_sparsity"}  # where `sparsity` is what is reached

C = TypeVar("C", bound=Callback)


def arguments(callback: Callback) -> dict[str, Any]:
    """With what its constructor would make this callback.

    Raises:
        SearchError: an argument is not kept.
    """
    declared: Mapping[str, Any] = getattr(callback, "arguments", dict)()
    kept = {**declared, **vars(callback)}
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(type(callback).__init__).parameters.items())[1:]:
        attribute = name if name in kept else _KEPT_AS.get(name, name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or attribute not in kept:
            raise SearchError(
                f"{type(callback).__name__} cannot be made again with other parameters: its `__init__` must name every "
                f"argument and keep it as an attribute of that name, but `{name}` is none."
            )
        found[name] = kept[attribute]
    return found


def remade(callback: C, changed: Mapping[str, Any]) -> C:
    """Another one with these arguments changed, which knows of no fit. Arguments are shared, not copied."""
    return type(callback)(**{**arguments(callback), **changed})


def initialise_again_(callback: Callback, changed: Mapping[str, Any]) -> None:
    """Run its constructor again with these arguments changed; on any error it is as before."""
    old, given = dict(vars(callback)), {**arguments(callback), **changed}
    try:
        type(callback).__init__(callback, **given)
    except BaseException:
        vars(callback).clear()
        vars(callback).update(old)
        raise
