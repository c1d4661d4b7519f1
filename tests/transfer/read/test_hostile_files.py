"""Files of strangers, each read in a guarded child (`guarded`): no code, nothing outside, in proportion, a clear error.

pickles        what they name, call and hold, in new and old files of torch.save      hostile_pickles
containers     zips, safetensors, indices, links, other formats                      hostile_files
folders        distributed checkpoints, and files of `save_sparse`                   hostile_folders
damage         cut at every edge of the structure; bytes flipped with a seed
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import hostile_files as files
import hostile_folders as folders
import hostile_pickles as pickles
import pytest
from guarded import Case, Guard, Outcome
from torch import nn

from lightning_autoarch.prune.load import load_pruned
from lightning_autoarch.training.sparse_file import load_sparse
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.transfer_weights import transfer_weights

Write = Callable[[Path], Path]
FLIPS = 8  # of each format


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def take_over(path: str) -> int:
    """Reads a file with all that it holds, and takes it over."""
    held = read_checkpoint(path)
    count = sum(held[name].numel() for name in held)
    transfer_weights(module(), path, on_mismatch="slice")
    return count


def load_small(path: str) -> None:
    load_pruned(module(), path, {"format": 1, "tensors": {}, "attributes": {}})


def load_values(path: str) -> int:
    return len(load_sparse(path))


def size_of(path: Path) -> int:
    """Bytes of a file as far as they are on the disk, or of all files in a folder."""
    inner = path.rglob("*") if path.is_dir() else [path]
    return sum(min(each.stat().st_size, each.stat().st_blocks * 512) for each in inner if each.is_file())


def outcomes_of(
    guard: Guard, read: Callable[[str], object], cases: Mapping[str, Write], folder: Path
) -> dict[str, Outcome]:
    """What became of each file; that the promise was kept is asserted."""
    asked = []
    for number, write in enumerate(cases.values()):
        inner = folder / f"{number}"
        inner.mkdir()
        path = write(inner)
        asked.append(Case((path,), path if path.is_dir() else path.parent, size_of(path)))
    outcomes = dict(zip(cases, guard.run_all(read, asked), strict=True))
    wrong = {name: problems for name, outcome in outcomes.items() if (problems := outcome.problems())}
    assert wrong == {}, wrong
    return outcomes


def unlike(outcomes: Mapping[str, Outcome], kind: str, value: object = None) -> dict[str, Outcome]:
    """Those with another end than was expected."""
    return {name: each for name, each in outcomes.items() if (each.kind, each.value) != (kind, value)}


SPARSE_SOURCES = {name: write for name, write in folders.SPARSE.items() if name != "no sparse file"}
REFUSED = {
    "torch.save": pickles.REFUSED,
    "zip": files.ZIPS,
    "safetensors": files.SAFETENSORS,
    "index": files.INDICES,
    "another format": files.FOREIGN,
    "distributed": folders.DISTRIBUTED,
    "sparse file": SPARSE_SOURCES,
}
EITHER = {**pickles.EITHER, **{f"zip: {name}": write for name, write in files.ZIPS_EITHER.items()}}
FORMATS = {"torch": files.torch_file, "old": files.old_file, "safetensors": files.safe_file}
DAMAGED = [*FORMATS, "sparse", "metadata"]


@pytest.mark.parametrize("group", REFUSED)
def test_refused(group: str, guard: Guard, tmp_path: Path) -> None:
    assert unlike(outcomes_of(guard, take_over, REFUSED[group], tmp_path), "refused") == {}


def test_loaded(guard: Guard, tmp_path: Path) -> None:
    assert unlike(outcomes_of(guard, take_over, pickles.LOADS, tmp_path), "returned", 12) == {}


def test_harmless(guard: Guard, tmp_path: Path) -> None:
    outcomes_of(guard, take_over, EITHER, tmp_path)


def test_sparse_file(guard: Guard, tmp_path: Path) -> None:
    assert unlike(outcomes_of(guard, load_values, folders.SPARSE, tmp_path), "refused") == {}


def test_pruned_checkpoint(guard: Guard, tmp_path: Path) -> None:
    tensors = [name for name in pickles.REFUSED if name.startswith("tensor: ")]
    calls = [name for name in pickles.REFUSED if name.startswith("pickle: ")]
    cases = {name: pickles.REFUSED[name] for name in tensors[::2] + calls[::6]}
    assert unlike(outcomes_of(guard, load_small, cases, tmp_path), "refused") == {}


class TestDamage:
    @pytest.mark.parametrize("form", DAMAGED)
    def test_cut(self, form: str, guard: Guard, tmp_path: Path) -> None:
        """At each edge of the structure."""
        whole = damaged_file(form, tmp_path).read_bytes()
        cases = {f"{length}": damaged(form, whole[:length]) for length in files.cuts(whole)}
        assert unlike(outcomes_of(guard, reader(form), cases, tmp_path), "refused") == {}

    @pytest.mark.parametrize("form", DAMAGED)
    def test_flipped(self, form: str, guard: Guard, tmp_path: Path) -> None:
        """A few bytes changed: an error, or other numbers."""
        whole = damaged_file(form, tmp_path).read_bytes()
        outcomes_of(
            guard, reader(form), {f"{seed}": damaged(form, flipped(whole, seed)) for seed in range(FLIPS)}, tmp_path
        )


def flipped(whole: bytes, seed: int) -> bytes:
    data, rng = bytearray(whole), random.Random(seed)
    for _ in range(rng.choice([1, 1, 2, 4])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def damaged_file(form: str, folder: Path) -> Path:
    if form == "metadata":
        return folders.distributed(folder) / ".metadata"
    return folders.sparse_file(folder) if form == "sparse" else FORMATS[form](folder)


def damaged(form: str, data: bytes) -> Write:
    """A good file with other bytes in it; the folder, where only its metadata are damaged."""

    def write(folder: Path) -> Path:
        path = damaged_file(form, folder)
        path.write_bytes(data)
        return path.parent if form == "metadata" else path

    return write


def reader(form: str) -> Callable[[str], object]:
    return load_values if form == "sparse" else take_over


def test_there_are_enough() -> None:
    named = [*REFUSED.values(), pickles.LOADS, EITHER, folders.SPARSE]
    assert sum(map(len, named)) + len(DAMAGED) * FLIPS >= 300


def test_many_tensors_are_read_in_linear_time(guard: Guard, tmp_path: Path) -> None:
    """The limit of 10 seconds of the child holds for what took minutes."""
    many = {f"{i}": {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]} for i in range(20_000)}
    cases = {"many": files.safetensors(many, bytes(80_000))}
    assert unlike(outcomes_of(guard, take_over, cases, tmp_path), "refused") == {}  # nothing in common with the module
