"""A recipe: how a new dense module gets the shapes of a resized one, as plain data for JSON.

    {"format": 1,
     "tensors": {"conv.weight": {"shape": [64, 3, 3, 3], "index": {"0": [[0, 10], [12, 30]]}}},
     "attributes": {"conv": {"out_channels": 28}}}

An index lists the old indices in their new order, as half-open ranges. Nothing is traced: only names, shapes and
attributes have to be those of the module for which the recipe was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_autoarch.core.errors import StructureError, did_you_mean, shown
from lightning_autoarch.core.schema import Check, Schema, described, items, mapping, record, sequence, whole
from lightning_autoarch.structure.attributes import fit_classes_
from lightning_autoarch.structure.resize import Resized, Transaction, apply_changes_
from lightning_autoarch.structure.resize_plan import Change, Index

FORMAT = 1
MOST_GROWTH = (
    64  # factor by which a recipe may enlarge a dimension: beyond any widening, within the memory of a machine
)
Recipe = dict[str, Any]


def _sizes(value: Any, where: str) -> None:
    (whole(-1) if isinstance(value, int) else sequence(whole(-1)))(value, where)


_ENTRY = record({"shape": sequence(whole()), "index": mapping(sequence(items(whole(), whole())))})
_FIELDS: dict[str, Check] = {"format": whole(1), "tensors": mapping(_ENTRY), "attributes": mapping(mapping(_sizes))}
RECIPE = record(_FIELDS)  # as it stands in the state of something else
SCHEMA = Schema("a resized module", FORMAT, _FIELDS, kind="recipe")


def recipe_of(module: nn.Module, resized: Resized) -> Recipe:
    """The recipe of a resize, under every name of each tensor."""
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
    checked = SCHEMA.read(recipe, StructureError)
    for name, entry in checked["tensors"].items():
        if name not in names:
            hint = did_you_mean(shown(name), names)
            raise StructureError(f"The recipe has a tensor `{shown(name)}` that the module lacks.{hint}")
        got = tuple(names[name].shape)
        if got != tuple(entry["shape"]):
            said = tuple(entry["shape"][:8])
            raise StructureError(f"Expected `{name}` of shape {said}, as the recipe was made for, got {got}.")
        change = _change(name, entry)
        if planned.setdefault(id(names[name]), change).index != change.index:
            raise StructureError(f"Expected one index of tied tensors, got another for `{name}`.")
    tensors = {change.name: names[change.name] for change in planned.values()}
    with Transaction(module, list(tensors.values()), []):
        apply_changes_(module, tensors, list(planned.values()), {})
        for path, values in checked["attributes"].items():
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
            where = shown(f"{path}.{name}")
            raise StructureError(f"Expected `{where}` to be a size, as the recipe has it, got {described(now)}.")
        _check_growth(f"{path}.{name}", now, value)
        setattr(layer, name, value)


def _check_growth(where: str, now: Any, value: Any) -> None:
    """A recipe that makes a layer larger multiplies it; by what no widening does, it is not a recipe."""
    before, after = (max((abs(n) for n in ((x,) if isinstance(x, int) else x)), default=0) for x in (now, value))
    if after > MOST_GROWTH * max(1, before):
        raise StructureError(f"Expected a size of at most {MOST_GROWTH} times {before} for `{where}`, got {after}.")


def _changes(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Change]]:
    """The tensors of a recipe, checked."""
    for name, entry in SCHEMA.read(recipe, StructureError)["tensors"].items():
        yield name, _change(name, entry)


def _change(name: str, entry: Mapping[str, Any]) -> Change:
    """Of a tensor; its shape is that of a tensor that there is, so that no more is claimed than there can be."""
    shape = tuple(entry["shape"])
    index = {}
    for dim, parts in entry["index"].items():
        d = int(dim) if dim.isdecimal() and len(dim) < 3 else len(shape)
        if d >= len(shape):
            raise StructureError(f"The recipe's entry of `{shown(name)}` has no dimension {described(dim)}.")
        index[d] = _places(name, parts, shape[d])
    return Change(name, shape, index)


def _places(name: str, parts: Sequence[Sequence[int]], size: int) -> Index:
    if not parts or any(not start < stop <= size for start, stop in parts):
        raise StructureError(
            f"The recipe's entry of `{shown(name)}` is not well formed: expected ranges in [0, {size}), got "
            f"{shown(str(parts[:8]))}."
        )
    if sum(stop - start for start, stop in parts) > MOST_GROWTH * size:
        raise StructureError(f"The recipe makes `{shown(name)}` more than {MOST_GROWTH} times as large as it was.")
    return tuple(i for start, stop in parts for i in range(start, stop))
