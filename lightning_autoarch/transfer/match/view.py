"""`SourceView`: a source under the names that a module would give its tensors, to be rewritten without changing it.

A module's own loading hooks, and the rules of spellings.py, take tensors out of a view and put others in. What is put
back as it was taken out keeps the name that it has in the source, so it is still read from there when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from torch import Tensor

from lightning_autoarch.transfer.match.names import INNER
from lightning_autoarch.transfer.read.state import StateDict


class SourceView(MutableMapping[str, Tensor]):
    """Names as in the module, wrappers left out, and the tensors of a source. The source stays as it is.

    Args:
        state: the source.
        places: name in the module -> name in the source.

    Attributes:
        origins: name in the module -> name in the source, of what is in the source.
        made: name in the module -> tensor, of what is not.
    """

    def __init__(self, state: StateDict, places: Mapping[str, str]) -> None:
        self.origins = dict(places)
        self.made: dict[str, Tensor] = {}
        self._state = state
        self._read: dict[int, tuple[Tensor, str]] = {}  # id of a tensor that was read -> the tensor, its name

    def __getitem__(self, name: str) -> Tensor:
        name = _plain(name)
        if name in self.made:
            return self.made[name]
        source = self.origins[name]
        tensor = self._state[source]
        self._read.setdefault(id(tensor), (tensor, source))
        return tensor

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        name = _plain(name)
        known = self._read.get(id(tensor))
        self.made.pop(name, None)
        self.origins.pop(name, None)
        if known is not None:
            self.origins[name] = known[1]
        elif isinstance(tensor, Tensor):  # a hook may leave other things there, which are no weights
            self.made[name] = tensor.detach()

    def __delitem__(self, name: str) -> None:
        name = _plain(name)
        if name in self.made:
            del self.made[name]
        else:
            del self.origins[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (_plain(name) in self.made or _plain(name) in self.origins)

    def __iter__(self) -> Iterator[str]:
        yield from [*self.origins, *self.made]

    def __len__(self) -> int:
        return len(self.origins) + len(self.made)

    def rename(self, old: str, new: str) -> None:
        """Call what is there by another name, without reading it."""
        if old in self.made:
            self.made[new] = self.made.pop(old)
        else:
            self.origins[new] = self.origins.pop(old)

    def copy(self) -> dict[str, Tensor]:
        """All of it, as `dict.copy`."""
        return dict(self)


class Within(MutableMapping[str, Tensor]):
    """What of a view lies in one module: torch shows a module's loading hooks no more than that.

    Args:
        view: of the source.
        prefix: path of the module with a dot behind it; "" for the outermost, which sees everything.
    """

    def __init__(self, view: SourceView, prefix: str) -> None:
        self._view, self._prefix = view, prefix

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        return self._view[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self._view[name] = tensor

    def __delitem__(self, name: str) -> None:
        del self._view[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _plain(name).startswith(self._prefix) and name in self._view

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._view if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def copy(self) -> dict[str, Tensor]:
        """All of it, as `dict.copy`."""
        return dict(self)


def _plain(name: str) -> str:
    return INNER.sub("", name)
