"""`StateDict`: names and tensors, some of which are read from their file only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

StateDict: TypeAlias = Mapping[str, Tensor]


class VersionedStateDict(dict[str, Tensor]):
    """A state_dict that knows the versions of the modules that it was saved from.

    Attributes:
        versions: path of a module in the source -> what torch hands to its `_load_from_state_dict` as `local_metadata`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], versions: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(tensors)
        self.versions = dict(versions)


def versions_of(held: object) -> dict[str, Mapping[str, Any]]:
    """The metadata of modules in what `Module.state_dict()` returned; none where they were not kept.

    A file may hold anything in their place: a version is a whole number, and what else there is are numbers and text.
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
    """A state_dict whose tensors lie in a mapped file, and are made when they are asked for.

    Args:
        names: of the tensors.
        make: the tensor of a name.
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
        likes: for each name a tensor on the meta device: its shape and dtype, and no memory.
        read: the tensor of a name.
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
    """Something with the shape and dtype of a tensor of `state`: the tensor, or a meta one where that must be read."""
    return state.like(name) if isinstance(state, LazyStateDict) else state[name]
