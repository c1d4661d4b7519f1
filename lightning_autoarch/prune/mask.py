"""`BitMask`: which weights of a tensor are kept, 1 bit a weight.

Bit i of a tensor with n elements (row-major) is bit i % 8 of byte i // 8; the bytes are padded with zeros to whole
64-bit words. A mask is immutable and hashable, and equal to any mask with the same shape and bits.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune import _ops

BYTES = 8  # of a word
M1, M2, M4 = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F


class BitMask:
    """Which elements of a tensor are kept.

    Args:
        shape: shape of the tensor.
        words: uint8, `8 * ceil(n / 64)` bytes on any device, with padding 0. They are copied.

    Raises:
        PruneTypeError, PruneValueError: `words` is anything else.

    >>> import torch
    >>> mask = BitMask.pack(torch.tensor([[True, False, True], [True, True, False]]))
    >>> mask
    BitMask(shape=(2, 3), kept=4 of 6)
    >>> (mask & ~mask).count(), mask == BitMask.from_state(mask.state())
    (0, True)
    """

    __slots__ = ("_count", "_shape", "_words")

    def __init__(self, shape: Sequence[int], words: Tensor) -> None:
        self._shape = _checked_shape(shape)
        self._count: int | None = None
        size = words_size(self.numel)
        if type(words) is not Tensor:
            raise PruneTypeError(f"Expected `words` to be a torch.Tensor, got {type(words).__qualname__}.")
        if words.dtype != torch.uint8 or words.dim() != 1 or not words.is_contiguous():
            raise PruneTypeError(
                f"Expected `words` to be a contiguous row of uint8, got {words.dtype} {tuple(words.shape)}."
            )
        if words.numel() != size:
            raise PruneValueError(f"Expected `words` of {size} bytes for shape {self._shape}, got {words.numel()}.")
        self._words = words.clone()  # a mask must not change with the caller's memory
        if bool((words & ~_padded(words, self.numel)).any()):
            raise PruneValueError("Expected the bits of `words` after the last element to be 0.")

    @classmethod
    def _of(cls, shape: Sequence[int], words: Tensor) -> BitMask:
        """A mask of words that are known to be right: on CUDA the check would wait for the device."""
        mask = object.__new__(cls)
        mask._shape, mask._words, mask._count = tuple(shape), words, None
        return mask

    @classmethod
    def pack(cls, keep: Tensor) -> BitMask:
        """The mask of a boolean tensor, on its device."""
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            kind = keep.dtype if isinstance(keep, Tensor) else type(keep).__qualname__
            raise PruneTypeError(f"Expected `keep` to be a boolean tensor, got {kind}.")
        bits = torch.zeros(8 * words_size(keep.numel()), dtype=torch.uint8, device=keep.device)
        bits[: keep.numel()] = keep.detach().reshape(-1)
        words = (bits.view(-1, 8) << _places(keep.device)).sum(1, dtype=torch.uint8)
        return cls._of(keep.shape, words)

    @classmethod
    def ones(cls, shape: Sequence[int], device: torch.device | str = "cpu") -> BitMask:
        """A mask that keeps everything.

        Raises:
            PruneTypeError, PruneValueError: `shape` is not a sequence of ints >= 0.
        """
        return ~cls.zeros(shape, device)

    @classmethod
    def zeros(cls, shape: Sequence[int], device: torch.device | str = "cpu") -> BitMask:
        """A mask that keeps nothing.

        Raises:
            PruneTypeError, PruneValueError: `shape` is not a sequence of ints >= 0.
        """
        sizes = _checked_shape(shape)
        return cls._of(sizes, torch.zeros(words_size(math.prod(sizes)), dtype=torch.uint8, device=device))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._shape

    @property
    def words(self) -> Tensor:
        """The bits, (8 * ceil(n / 64),) uint8; they must not be written to."""
        return self._words

    @property
    def device(self) -> torch.device:
        """The device of the bits."""
        return self._words.device

    @property
    def numel(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self._shape)

    def unpack(self) -> Tensor:  # (*shape) bool
        """The mask as a boolean tensor."""
        bits = (self._words.unsqueeze(1) >> _places(self.device)) & 1
        return bits.view(-1)[: self.numel].view(self._shape).bool()

    def count(self) -> int:
        """The number of elements that are kept. On CUDA the first call waits for the device."""
        if self._count is None:
            on_cpu = self.device.type == "cpu"
            self._count = _ops.count_bits(self._words) if on_cpu else _count_ones(self._words)
        return self._count

    def density(self) -> float:
        """The share of elements that is kept; 1.0 if there are none."""
        return self.count() / self.numel if self.numel else 1.0

    def to(self, device: torch.device | str) -> BitMask:
        """The mask on another device; the mask itself if it is already there."""
        words = self._words.to(device)
        if words is self._words:
            return self
        moved = self._of(self._shape, words)
        moved._count = self._count
        return moved

    def digest(self) -> str:
        """A hash of shape and bits, the same in every process and on every device."""
        data = bytes(self._words.cpu().numpy())
        return hashlib.blake2b(repr(self._shape).encode() + data, digest_size=16).hexdigest()

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers: a checkpoint with them loads with `weights_only=True`, without this package."""
        return {"shape": list(self._shape), "words": self._words.clone()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> BitMask:
        """The mask of a `state()`.

        Raises:
            PruneTypeError, PruneValueError: it is anything else.
        """
        if not isinstance(state, dict) or set(state) != {"shape", "words"}:
            raise PruneTypeError(f"Expected the state of a BitMask, a dict of shape and words, got {state!r:.80}.")
        return cls(state["shape"], state["words"])

    def __and__(self, other: BitMask) -> BitMask:
        return self._of(self._shape, self._words & self._alike(other))

    def __or__(self, other: BitMask) -> BitMask:
        return self._of(self._shape, self._words | self._alike(other))

    def __xor__(self, other: BitMask) -> BitMask:
        return self._of(self._shape, self._words ^ self._alike(other))

    def __invert__(self) -> BitMask:
        return self._of(self._shape, _padded(~self._words, self.numel))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BitMask):
            return NotImplemented
        return self._shape == other._shape and torch.equal(self._words, other._words.to(self.device))

    def __bool__(self) -> bool:
        raise PruneTypeError(
            "Expected a number or a comparison, got a BitMask, which has no truth value: "
            "use `mask.count() > 0` or `mask.count() == mask.numel`."
        )

    def __hash__(self) -> int:
        return hash(self.digest())

    def __reduce__(self) -> tuple[Any, ...]:
        return BitMask, (self._shape, self._words)

    def __repr__(self) -> str:
        return f"BitMask(shape={self._shape}, kept={self.count()} of {self.numel})"

    def _alike(self, other: BitMask) -> Tensor:
        if not isinstance(other, BitMask):
            raise PruneTypeError(f"Expected a BitMask, got {type(other).__name__}.")
        if other._shape != self._shape or other.device != self.device:
            raise PruneValueError(
                f"Expected a mask of shape {self._shape} on {self.device}, got {other._shape} on {other.device}."
            )
        return other._words


def unwritten(tensor: Tensor) -> BitMask:
    """A mask for `tensor` with uninitialised memory, of which a kernel has to write every word."""
    return BitMask._of(tensor.shape, torch.empty(words_size(tensor.numel()), dtype=torch.uint8, device=tensor.device))


def words_size(numel: int) -> int:
    """The number of bytes of a mask."""
    return BYTES * (-(-numel // 64))


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)  # 2.5 is no size
    except TypeError:
        raise PruneTypeError(f"Expected `shape` a sequence of ints, got {shape!r:.80}.") from None
    if any(size < 0 for size in sizes):
        raise PruneValueError(f"Expected `shape` of sizes >= 0, got {sizes}.")
    return sizes


def _padded(words: Tensor, numel: int) -> Tensor:
    """The words with the bits after the last element set to 0."""
    result = words.clone()
    result[-(-numel // 8) :] = 0
    if numel % 8:
        result[numel // 8] &= (1 << numel % 8) - 1
    return result


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def _count_ones(words: Tensor) -> int:
    """The number of ones, by parallel additions inside each 64-bit word, on any device."""
    x = words.view(torch.int64)
    x = x - ((x >> 1) & M1)
    x = (x & M2) + ((x >> 2) & M2)
    x = (x + (x >> 4)) & M4
    return int((x.view(torch.uint8)).sum(dtype=torch.int64))
