"""State_dicts, some of which read their tensors from a file only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

StateDict: TypeAlias = Mapping[str, Tensor]
Shape: TypeAlias = tuple[int, ...]


class VersionedStateDict(dict[str, Tensor]):
    """A state_dict with the versions of the modules that it was saved from.

    Attributes:
        versions: Path of a module in the source -> what torch passes to its `_load_from_state_dict` as
            `local_metadata`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], versions: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(tensors)
        self.versions = dict(versions)


def versions_of(held: object) -> dict[str, Mapping[str, Any]]:
    """The metadata of modules in the result of `Module.state_dict()`, empty if it was not kept.

    A file may hold anything in its place, so only numbers and text are returned, and a version has to be an int.
    """
    if isinstance(held, VersionedStateDict):
        return held.versions
    metadata = getattr(held, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return {}
    return {
        path: {key: value for key, value in each.items() if isinstance(value, bool | int | float | str)}
        for path, each in metadata.items()
        if isinstance(path, str) and isinstance(each, Mapping) and isinstance(each.get("version", 1), int)
    }


class MappedStateDict(Mapping[str, Tensor]):
    """A state_dict whose tensors are in a memory-mapped file, and are made when they are asked for.

    Args:
        names: Names of the tensors.
        make: Makes the tensor of a name.
    """

    def __init__(self, names: Collection[str], make: Callable[[str], Tensor]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class LazyStateDict(Mapping[str, Tensor]):
    """A state_dict whose tensors are read one at a time, each time that they are asked for.

    Args:
        likes: Name -> tensor on the meta device, with the shape and dtype.
        read: Reads the tensor of a name.
    """

    def __init__(self, likes: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
        self._likes = dict(likes)
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._likes:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._likes)

    def __len__(self) -> int:
        return len(self._likes)

    def like(self, name: str) -> Tensor:
        """A tensor of the same shape and dtype, without reading it."""
        return self._likes[name]


def like(state: StateDict, name: str) -> Tensor:
    """A tensor with the shape and dtype of the one of this name, on the meta device if that one has to be read."""
    return state.like(name) if isinstance(state, LazyStateDict) else state[name]
