"""A recipe: how a fresh dense module gets the shapes of a resized one, as plain data that JSON takes.

    {"format": 1,
     "tensors": {"conv.weight": {"shape": [64, 3, 3, 3], "index": {"0": [[0, 10], [12, 30]]}}},
     "attributes": {"conv": {"out_channels": 28}}}

An index is the old places of the new indices, as half-open ranges in order. Nothing is traced: only names, shapes and
attributes have to be those of the module that the recipe was made for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_autoarch.errors import StructureError, did_you_mean, shown
from lightning_autoarch.structure.attributes import fit_classes_
from lightning_autoarch.structure.plan import Change, Index
from lightning_autoarch.structure.resize import Resized, apply_changes_
from lightning_autoarch.structure.transaction import Transaction

FORMAT = 1
WIDEST = 64  # times that a tensor may have been widened
Recipe = dict[str, Any]


def recipe_of(module: nn.Module, resized: Resized) -> Recipe:
    """The recipe of what was done to a module, under every name of its tensors."""
    changed = {change.name: change for change in resized.changes}
    names = _names(module)
    first = {id(tensor): name for name, tensor in reversed(names.items())}
    tensors = {
        name: _entry(changed[first[id(tensor)]]) for name, tensor in names.items() if first[id(tensor)] in changed
    }
    attributes = {path: {k: _plain(v) for k, v in values.items()} for path, values in resized.attributes.items()}
    return {"format": FORMAT, "tensors": tensors, "attributes": attributes}


def _names(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under every name, those of tied ones too; parameters first."""
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


def _entry(change: Change) -> dict[str, Any]:
    return {"shape": list(change.shape), "index": {str(d): ranges(i) for d, i in change.index.items()}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def ranges(index: Index) -> list[list[int]]:
    """Places as half-open ranges, in order.

    >>> ranges((0, 1, 2, 5, 6, 6))
    [[0, 3], [5, 7], [6, 7]]
    """
    places = np.asarray(index, dtype=np.int64)
    breaks = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    starts, lasts = places[[0, *breaks]], places[[*(b - 1 for b in breaks), -1]]
    found: list[list[int]] = np.stack([starts, lasts + 1], 1).tolist()
    return found


def chain_recipes(first: Recipe, second: Recipe) -> Recipe:
    """One recipe for two resizes in a row.

    Raises:
        StructureError: the second does not start from the shapes that the first leaves.
    """
    before, after = dict(_changes(first)), dict(_changes(second))
    joined = {name: _chained(before[name], after[name]) if name in before else c for name, c in after.items()}
    attributes = {path: dict(values) for path, values in first["attributes"].items()}
    for path, values in second["attributes"].items():
        attributes[path] = {**attributes.get(path, {}), **values}
    tensors = {name: _entry(change) for name, change in {**before, **joined}.items()}
    return {"format": FORMAT, "tensors": tensors, "attributes": attributes}


def _chained(first: Change, second: Change) -> Change:
    if first.new_shape != second.shape:
        raise StructureError(f"Expected `{first.name}` of shape {first.new_shape} in the second, got {second.shape}.")
    index = dict(first.index)
    for d, places in second.index.items():
        index[d] = tuple(first.index[d][i] for i in places) if d in first.index else places
    return Change(first.name, first.shape, index)


def apply_recipe_(module: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Give a dense module the shapes of a recipe, in place; a state_dict of the resized module then loads.

    Raises:
        StructureError: not a recipe, or one of another module. The module is as before then.
    """
    names = _names(module)
    planned: dict[int, Change] = {}
    for name, change in _changes(recipe, names):
        if planned.setdefault(id(names[name]), change).index != change.index:
            raise StructureError(f"Expected one index of tied tensors, got another for `{name}`.")
    tensors = {change.name: names[change.name] for change in planned.values()}
    with Transaction(module, list(tensors.values()), []):
        apply_changes_(module, tensors, list(planned.values()), {})
        for path, values in recipe["attributes"].items():
            _set_attributes(module, path, values)
        fit_classes_(module)


def _set_attributes(module: nn.Module, path: str, values: Mapping[str, Any]) -> None:
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        raise StructureError(f"The recipe has a module `{shown(path)}` that the module lacks.") from None
    for name, value in values.items():
        now = getattr(layer, name, None) if isinstance(name, str) else None
        if isinstance(now, (tuple, list)) and isinstance(value, list):
            value = type(now)(value)
        if type(now) is not type(value) or type(value) not in (int, tuple, list):
            raise StructureError(
                f"Expected `{shown(path)}.{shown(name)}` to be a size, as the recipe has it, got {shown(now)}."
            )
        setattr(layer, name, value)


def _changes(recipe: Mapping[str, Any], names: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Change]]:
    """The tensors of a recipe, checked: against those of a module where it has one."""
    if not isinstance(recipe, Mapping) or {"format", "tensors", "attributes"} - set(recipe):
        raise StructureError(f"Expected a recipe, a dict of format, tensors and attributes, got {shown(recipe)}.")
    if recipe["format"] != FORMAT:
        raise StructureError(
            f"Expected a recipe of format {FORMAT}, got {shown(recipe['format'])}: another version made it."
        )
    attributes = recipe["attributes"]
    if not isinstance(recipe["tensors"], Mapping) or not isinstance(attributes, Mapping):
        raise StructureError("Expected the tensors and the attributes of a recipe as dicts, got something else.")
    if not all(isinstance(path, str) and isinstance(each, Mapping) for path, each in attributes.items()):
        raise StructureError("Expected the attributes of a recipe as sizes by module and name, got something else.")
    for name, entry in recipe["tensors"].items():
        try:
            shape = tuple(int(n) for n in entry["shape"])
            if names is not None:
                _check_known(name, shape, names)  # before its ranges, which could be of any length, are written out
            index = {int(d): _places(parts, shape[int(d)]) for d, parts in entry["index"].items()}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            what = shown(str(error))
            raise StructureError(f"The recipe's entry of `{shown(name)}` is not well formed: {what}.") from None
        yield name, Change(name, shape, index)


def _check_known(name: str, shape: tuple[int, ...], names: Mapping[str, Tensor]) -> None:
    if name not in names:
        hint = did_you_mean(str(name), names)
        raise StructureError(f"The recipe has a tensor `{shown(name)}` that the module lacks.{hint}")
    if tuple(names[name].shape) != shape:
        got = tuple(names[name].shape)
        raise StructureError(f"Expected `{name}` of shape {shape}, as the recipe was made for, got {got}.")


def _places(parts: Sequence[Sequence[int]], size: int) -> Index:
    """Places of ranges within [0, size), some of them more than once where a tensor was widened."""
    if any(start < 0 or stop > size for start, stop in parts):
        raise ValueError(f"ranges do not lie in [0, {size})")
    places = (place for start, stop in parts for place in range(start, stop))
    found = tuple(itertools.islice(places, WIDEST * size + 1))
    if not 0 < len(found) <= WIDEST * size:
        raise ValueError(f"ranges of {len(found)} places or more of {size}")
    return found
