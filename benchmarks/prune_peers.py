"""What pruning is held against: the floor, one read and one read-and-write of the memory, and how others do it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import Case, Skip
from torch import Tensor
from torch.nn.utils import prune as torch_prune

FLOOR = r"""
#include <cstdint>
#include <thread>
#include <vector>

template <typename F>
void in_parallel(std::int64_t n, int threads, F f) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(f, n * t / threads, n * (t + 1) / threads);
  f(std::int64_t{0}, n / threads);
  for (std::thread& other : others) other.join();
}

extern "C" std::uint64_t read_all(const std::uint64_t* x, std::int64_t n, int threads) {
  std::vector<std::uint64_t> results(static_cast<std::size_t>(threads) * 8);
  in_parallel(n, threads, [&](std::int64_t begin, std::int64_t end) {
    std::uint64_t all = 0;
    for (std::int64_t i = begin; i < end; ++i) all |= x[i];
    results[static_cast<std::size_t>((begin * threads + n - 1) / n) * 8] = all;
  });
  std::uint64_t all = 0;
  for (const std::uint64_t each : results) all |= each;
  return all;
}

extern "C" void read_and_write_all(std::uint64_t* x, std::int64_t n, std::uint64_t bits, int threads) {
  in_parallel(n, threads, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) x[i] &= bits;
  });
}
"""


class Floor:
    """The best plain loop over memory, or on CUDA what `copy_` moves in a second."""

    def __init__(self) -> None:
        if not (compiler := shutil.which("g++")):
            raise Skip("g++ is not installed, which the floor is compiled with")
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "floor.cpp"), Path(folder, "floor.so")
            source.write_text(FLOOR)
            flags = ["-O3", "-march=native", "-std=c++17", "-pthread", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
            self.library = ctypes.CDLL(str(library))
        self.library.read_all.restype = ctypes.c_uint64

    def cases(self, work: Tensor, name: str) -> dict[str, Case]:
        size = work.numel() * work.element_size()
        memory, words = ctypes.c_void_p(work.data_ptr()), ctypes.c_int64(size // 8)
        threads, ones = ctypes.c_int(torch.get_num_threads()), ctypes.c_uint64(2**64 - 1)
        return {
            f"{name}: read": Case(lambda: self.library.read_all(memory, words, threads), bytes=size),
            f"{name}: read and write": Case(
                lambda: self.library.read_and_write_all(memory, words, ones, threads), bytes=2 * size
            ),
        }


def by_partition(weights: np.ndarray) -> None:
    magnitudes = np.abs(weights)
    k = weights.size // 2
    weights[magnitudes <= np.partition(magnitudes, k - 1)[k - 1]] = 0


def by_kthvalue(weights: Tensor) -> None:
    magnitudes = weights.abs()
    weights.masked_fill_(magnitudes <= magnitudes.kthvalue(weights.numel() // 2).values, 0)


def by_topk(weights: Tensor) -> None:
    keep = torch.topk(weights.abs(), weights.numel() // 2, sorted=False).indices
    mask = torch.zeros_like(weights, dtype=torch.bool)
    mask[keep] = True
    weights.mul_(mask)


def by_torch_prune(weights: Tensor) -> Callable[[], None]:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(weights, requires_grad=False)

    def run() -> None:
        torch_prune.global_unstructured([(module, "weight")], torch_prune.L1Unstructured, amount=0.5)
        torch_prune.remove(module, "weight")

    return run
