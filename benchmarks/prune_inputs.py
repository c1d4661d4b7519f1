"""Weights to prune: normal ones, lists as models have them, and inputs that are hard for a selection."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def normal(n: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.empty(n, dtype=torch.float32, device=device).normal_(generator=generator).to(dtype)


def resnet50() -> list[tuple[int, ...]]:
    """Every parameter: 161 tensors, 25,557,032 numbers."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, into, kernel in ((planes, inside, 1), (planes, planes, 3), (4 * planes, planes, 1)):
                shapes += [(out, into, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * planes, inside, 1, 1), (4 * planes,), (4 * planes,)]
            inside = 4 * planes
    return [*shapes, (1000, 2048), (1000,)]


def transformer_layer() -> list[tuple[int, ...]]:
    """One layer of a 7B transformer: 9 tensors, 202,383,360 numbers."""
    attention, mlp = [(4096, 4096)] * 4, [(11008, 4096), (11008, 4096), (4096, 11008)]
    return [*attention, *mlp, (4096,), (4096,)]


LISTS = {"ResNet-50": resnet50(), "a layer of a 7B transformer": transformer_layer()}


def as_list(flat: Tensor, shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
    """Tensors as a model has them, each in memory of its own, of `flat`'s numbers in its order."""
    tensors, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        tensors.append(flat[start : start + size].view(shape).clone())
        start += size
    return tensors


def fill(name: str, out: Tensor) -> None:
    """Each written into memory that is there already."""
    array, random = out.numpy(), np.random.default_rng(1)
    out.copy_(normal(out.numel()))
    if name == "sorted":
        array.sort()
    elif name == "all equal":
        array[:] = 0.25
    elif name == "90 % zero":
        array[random.random(array.size, dtype=np.float32) < 0.9] = 0
    elif name == "heavy-tailed":
        array /= random.random(array.size, dtype=np.float32) ** 2 + np.float32(1e-12)
    elif name == "two values":
        array[:] = np.where(array < 0, np.float32(1), np.float32(2))
    elif name == "random bits":
        bits = array.view(np.uint32)
        bits[:] = random.integers(0, 2**32, array.size, dtype=np.uint32)
        bits[(bits & 0x7F800000) == 0x7F800000] &= 0xBFFFFFFF  # finite


HARD = ["sorted", "all equal", "90 % zero", "heavy-tailed", "two values", "random bits"]
