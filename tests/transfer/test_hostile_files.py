"""Files of strangers, each read in a guarded child (`guarded`): no code, nothing outside, in proportion, a clear error.

pickles        what they name, call and hold, in new and old files of torch.save      hostile_pickles
containers     zips, safetensors, indices, links, other formats                      hostile_files
folders        distributed checkpoints, and files of `save_sparse`                   hostile_folders
damage         cut at every edge of the structure; bytes flipped with a seed
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_files as files
import hostile_folders as folders
import hostile_pickles as pickles
import pytest
from guarded import Guard, Outcome
from torch import nn

from lightning_autoarch.prune.load import load_pruned
from lightning_autoarch.prune.sparse_file import load_sparse
from lightning_autoarch.transfer import read_checkpoint, transfer_weights

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


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def size_of(path: Path) -> int:
    """Bytes of a file as far as they are on the disk, or of all files in a folder."""
    inner = path.rglob("*") if path.is_dir() else [path]
    return sum(min(each.stat().st_size, each.stat().st_blocks * 512) for each in inner if each.is_file())


def outcome_of(guard: Guard, read: Callable[[str], object], write: Write, folder: Path) -> Outcome:
    path = write(folder)
    inside = path if path.is_dir() else path.parent
    outcome = guard.run(read, path, folder=inside, size=size_of(path))
    assert outcome.problems() == [], outcome
    return outcome


def all_of(*groups: tuple[str, dict[str, Write]]) -> dict[str, Write]:
    return {f"{prefix}: {name}": write for prefix, cases in groups for name, write in cases.items()}


SPARSE_SOURCES = {name: write for name, write in folders.SPARSE.items() if name != "no sparse file"}
REFUSED = {
    **pickles.REFUSED,
    **all_of(
        ("zip", files.ZIPS), ("safetensors", files.SAFETENSORS), ("index", files.INDICES), ("foreign", files.FOREIGN),
        ("distributed", folders.DISTRIBUTED), ("sparse file", SPARSE_SOURCES),
    ),
}  # fmt: skip
EITHER = {**pickles.EITHER, **all_of(("zip", files.ZIPS_EITHER))}
FORMATS = {"torch": files.torch_file, "old": files.old_file, "safetensors": files.safe_file}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, guard: Guard, tmp_path: Path) -> None:
    outcome = outcome_of(guard, take_over, REFUSED[name], tmp_path)
    assert outcome.kind == "refused", outcome


@pytest.mark.parametrize("name", pickles.LOADS)
def test_loaded(name: str, guard: Guard, tmp_path: Path) -> None:
    outcome = outcome_of(guard, take_over, pickles.LOADS[name], tmp_path)
    assert (outcome.kind, outcome.value) == ("returned", 12), outcome


@pytest.mark.parametrize("name", EITHER)
def test_harmless(name: str, guard: Guard, tmp_path: Path) -> None:
    outcome_of(guard, take_over, EITHER[name], tmp_path)


@pytest.mark.parametrize("name", folders.SPARSE)
def test_sparse_file(name: str, guard: Guard, tmp_path: Path) -> None:
    outcome = outcome_of(guard, load_values, folders.SPARSE[name], tmp_path)
    assert outcome.kind == "refused", outcome


HELD = {f"tensor: {name}": pickles.REFUSED[f"tensor: {name}"] for name in pickles.SPARSE}
LOADED_WHOLE = {
    **HELD,
    **{name: pickles.REFUSED[name] for name in list(pickles.REFUSED) if name.startswith("pickle: ")},
}


@pytest.mark.parametrize("name", list(HELD)[::2] + list(LOADED_WHOLE)[40::6])
def test_pruned_checkpoint(name: str, guard: Guard, tmp_path: Path) -> None:
    outcome = outcome_of(guard, load_small, LOADED_WHOLE[name], tmp_path)
    assert outcome.kind == "refused", outcome


class TestDamage:
    @pytest.mark.parametrize("form", [*FORMATS, "sparse", "metadata"])
    def test_cut(self, form: str, guard: Guard, tmp_path: Path) -> None:
        """At each edge of the structure; all cuts of a file in one child."""
        path = damaged_file(form, tmp_path)
        whole = path.read_bytes()
        for length in files.cuts(whole):
            path.write_bytes(whole[:length])
            read, asked = reader(form, path)
            outcome = guard.run(read, asked, folder=tmp_path, size=length)
            assert outcome.problems() == [] and outcome.kind == "refused", (length, outcome)

    @pytest.mark.parametrize("form", [*FORMATS, "sparse", "metadata"])
    @pytest.mark.parametrize("seed", range(FLIPS))
    def test_flipped(self, form: str, seed: int, guard: Guard, tmp_path: Path) -> None:
        """A few bytes changed: an error, or other numbers."""
        path = damaged_file(form, tmp_path)
        data, rng = bytearray(path.read_bytes()), random.Random(seed)
        for _ in range(rng.choice([1, 1, 2, 4])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        read, asked = reader(form, path)
        outcome = guard.run(read, asked, folder=tmp_path, size=len(data))
        assert outcome.problems() == [], outcome


def damaged_file(form: str, folder: Path) -> Path:
    if form == "metadata":
        return folders.distributed(folder) / ".metadata"
    return folders.sparse_file(folder) if form == "sparse" else FORMATS[form](folder)


def reader(form: str, path: Path) -> tuple[Callable[[str], object], Path]:
    if form == "metadata":
        return take_over, path.parent
    return (load_values if form == "sparse" else take_over), path


def test_there_are_enough() -> None:
    named = [REFUSED, pickles.LOADS, EITHER, folders.SPARSE]
    assert sum(map(len, named)) + 5 * FLIPS >= 300


def test_many_tensors_are_read_in_linear_time(guard: Guard, tmp_path: Path) -> None:
    """The limit of 10 seconds of the child holds for what took minutes."""
    many = {f"{i}": {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]} for i in range(50_000)}
    write = files.safetensors(many, bytes(200_000))
    assert outcome_of(guard, take_over, write, tmp_path).kind == "refused"  # nothing in common with the module
