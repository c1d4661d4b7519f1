"""Reading: each format gives the same tensors, and nothing but tensors; what is broken or hostile is named."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from nets import Net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.read.state_dicts import LazyStateDict, like

Write = Callable[[Path, dict[str, torch.Tensor]], Path]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(4, generator=generator).half(),
        "norm.num_batches_tracked": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "turn": torch.randn(2, generator=generator, dtype=torch.complex64),
    }


def archive(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


def legacy(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, folder / "weights.pth", _use_new_zipfile_serialization=False)
    return folder / "weights.pth"


def wrapped(key: str) -> Write:
    def write(folder: Path, state: dict[str, torch.Tensor]) -> Path:
        torch.save({key: state, "epoch": 3, "best": torch.tensor(0.5)}, folder / "script.pt")
        return folder / "script.pt"

    return write


def safe(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def safe_folder(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    return safe(folder, state).parent


def shards_of(folder: Path, state: dict[str, torch.Tensor], suffix: str) -> dict[str, str]:
    names = list(state)
    places = {name: f"model-0000{i % 2 + 1}-of-00002.{suffix}" for i, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: state[name] for name in names if places[name] == file}
        if suffix == "bin":
            torch.save(part, folder / file)
        else:
            pytest.importorskip("safetensors.torch").save_file(part, folder / file)
    return places


def indexed(suffix: str, *, whole_folder: bool = False) -> Write:
    def write(folder: Path, state: dict[str, torch.Tensor]) -> Path:
        stem = "pytorch_model.bin" if suffix == "bin" else "model.safetensors"
        index = folder / f"{stem}.index.json"
        places = shards_of(folder, state, suffix)
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
        return folder if whole_folder else index

    return write


def distributed(folder: Path, state: dict[str, Any]) -> Path:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save(dict(state), checkpoint_id=folder / "dcp", no_dist=True)
    return folder / "dcp"


def distributed_wrapped(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    return distributed(folder, {"state_dict": state, "optimizer": {"m": torch.ones(2)}, "epoch": 3})


WRITERS: dict[str, Write] = {
    "archive": archive,
    "legacy": legacy,
    "state_dict": wrapped("state_dict"),
    "model": wrapped("model"),
    "model_state_dict": wrapped("model_state_dict"),
    "safetensors": safe,
    "safetensors folder": safe_folder,
    "safetensors index": indexed("safetensors"),
    "bin index": indexed("bin"),
    "bin index folder": indexed("bin", whole_folder=True),
    "distributed": distributed,
    "distributed wrapped": distributed_wrapped,
}


def assert_same(found: Any, state: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(state)
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        assert like(found, name).shape == tensor.shape and like(found, name).dtype == tensor.dtype
        assert not found[name].requires_grad


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
class TestEveryFormat:
    def test_gives_the_tensors(self, write: Write, tmp_path: Path) -> None:
        assert_same(read_checkpoint(write(tmp_path, tensors())), tensors())
        assert_same(read_checkpoint(str(write(tmp_path, tensors()))), tensors())

    def test_loads_into_a_module(self, write: Write, tmp_path: Path) -> None:
        source, target = nn.Linear(3, 2), nn.Linear(3, 2)
        target.load_state_dict(read_checkpoint(write(tmp_path, dict(source.state_dict()))))
        assert torch.equal(source.weight, target.weight)


def test_name_says_nothing(tmp_path: Path) -> None:
    archive(tmp_path, tensors()).rename(tmp_path / "odd.name")
    assert_same(read_checkpoint(tmp_path / "odd.name"), tensors())


def test_module_gives_its_own_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    found = read_checkpoint(module)
    assert list(found) == list(module.state_dict())
    assert found["0.weight"].data_ptr() == module[0].weight.data_ptr() and not found["0.weight"].requires_grad


def test_extra_state_is_left_out() -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    assert set(read_checkpoint(Counting(2, 2))) == {"weight", "bias"}


def test_key(tmp_path: Path) -> None:
    torch.save({"nets": {"g": {"w": torch.ones(1)}, "d": {"w": torch.zeros(1)}}}, tmp_path / "gan.pt")
    assert read_checkpoint(tmp_path / "gan.pt", key="nets.g")["w"] == 1
    with pytest.raises(CheckpointError, match=r"`nets.x`.*the keys `g`, `d`"):
        read_checkpoint(tmp_path / "gan.pt", key="nets.x")
    with pytest.raises(CheckpointError, match="key="):
        read_checkpoint(tmp_path / "gan.pt")


def fit(folder: Path, *callbacks: L.Callback) -> Path:
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(16, 4), torch.randn(16, 1)), batch_size=4)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[*callbacks, SaveInside(folder / "inside.ckpt")],
    )  # fmt: skip
    trainer.fit(Net(), data, data)
    return folder / "inside.ckpt"


class SaveInside(L.Callback):
    """As a ModelCheckpoint does: while averages and current weights differ."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


class TestLightning:
    def test_weights_as_load_from_checkpoint(self, tmp_path: Path) -> None:
        path = fit(tmp_path)
        assert_same(read_checkpoint(path), dict(Net.load_from_checkpoint(path).state_dict()))
        assert_same(read_checkpoint(path, weights="current"), dict(read_checkpoint(path)))

    def test_weight_averaging(self, tmp_path: Path) -> None:
        path = fit(tmp_path, WeightAveraging())
        held = torch.load(path, weights_only=True)
        average, current = read_checkpoint(path, weights="average"), read_checkpoint(path, weights="current")
        assert_same(average, held["state_dict"])
        assert_same(current, held["current_model_state"])
        assert any(not torch.equal(average[name], current[name]) for name in average)
        assert_same(read_checkpoint(path), dict(average))

    def test_stochastic_weight_averaging(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = fit(tmp_path, StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1))
        states = torch.load(path, weights_only=True)["callbacks"].values()
        average = next(s["average_model_state"] for s in states if isinstance(s, dict) and "average_model_state" in s)
        if average is None:
            pytest.skip("this Lightning keeps no average here")
        assert_same(read_checkpoint(path, weights="average"), average)

    def test_average_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"Expected averaged weights in .*inside\.ckpt"):
            read_checkpoint(fit(tmp_path), weights="average")

    def test_average_of_a_script(self, tmp_path: Path) -> None:
        state = {"w": torch.ones(1)}
        torch.save({"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": state}, tmp_path / "timm.pt")
        assert_same(read_checkpoint(tmp_path / "timm.pt", weights="average"), state)

    def test_unknown_word(self) -> None:
        with pytest.raises(CheckpointError, match="Expected `weights` to be one of 'state_dict'"):
            read_checkpoint(nn.Linear(1, 1), weights="ema")  # type: ignore[arg-type]


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("hacked",)


class TestHostilePickles:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_not_run(self, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"w": torch.ones(1), "x": Evil()}, "evil.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"`posix\.mkdir`, which could run code"):
            read_checkpoint("evil.pt")
        assert os.listdir() == ["evil.pt"]

    def test_every_blocked_name_is_named(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}, "a": argparse.Namespace(), "b": Path("x")}, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError, match=r"`argparse\.Namespace`.*add_safe_globals") as caught:
            read_checkpoint(tmp_path / "x.ckpt")
        assert "pathlib" in str(caught.value)

    def test_trusted_classes(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"w": torch.ones(1)}, "a": argparse.Namespace(x=1)}, tmp_path / "x.ckpt")
        with torch.serialization.safe_globals([argparse.Namespace]):
            assert list(read_checkpoint(tmp_path / "x.ckpt")) == ["w"]

    def test_whole_module(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
        with pytest.raises(CheckpointError, match=r"got `torch\.nn\.modules\.linear\.Linear`,.*state_dict"):
            read_checkpoint(tmp_path / "module.pt")

    def test_pickle_of_no_torch(self, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            read_checkpoint(tmp_path / "x.pt")

    def test_what_the_unpickler_does_not_know_is_no_name(self, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
        with pytest.raises(CheckpointError, match=r"x\.pt, a pickle as it writes none \(it has the operand 149\)\.$"):
            read_checkpoint(tmp_path / "x.pt")

    @pytest.mark.parametrize("name", ["state_dict", "model"])
    def test_a_dict_within_itself(self, name: str, tmp_path: Path) -> None:
        held: dict[str, Any] = {}
        held[name] = held
        torch.save(held, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=rf"Expected tensors in .*x\.pt, got the keys `{name}`"):
            read_checkpoint(tmp_path / "x.pt")

    def test_metadata_of_distributed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        folder = distributed(tmp_path, tensors())
        (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match=r"`posix\.mkdir`, which could run code"):
            read_checkpoint(folder)
        assert os.listdir() == ["dcp"]


class TestBroken:
    @pytest.mark.parametrize("write", [archive, legacy, safe], ids=["archive", "legacy", "safetensors"])
    @pytest.mark.parametrize("part", [0.01, 0.5, 0.9, 0.999])
    def test_truncated(self, write: Write, part: float, tmp_path: Path) -> None:
        path = write(tmp_path, {"w": torch.randn(1000)})
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(CheckpointError, match=path.name):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "empty file"),
            (b"hello world", "which begins b'hello world'"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"<!DOCTYPE html>", "a web page"),
            (b"GGUF\x03", "GGUF"),
            (b"\x89HDF\r\n", "HDF5"),
            (b"PK\x03\x04nothing", "broken or not one"),
            (b"{}", "weight_map"),
            (b"{" * 100_000, "index in JSON"),
        ],
    )
    def test_other_formats(self, content: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "x.pt")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"got nothing there\.$"):
            read_checkpoint(tmp_path / "no.pt")
        with pytest.raises(CheckpointError, match="`hf://owner/name`"):
            read_checkpoint("owner/name")

    @pytest.mark.parametrize("source", [None, 3, b"x.pt", [torch.ones(1)]])
    def test_what_is_no_source(self, source: Any) -> None:
        with pytest.raises(CheckpointError, match="Expected a path, a URL, a module or a mapping of tensors, got"):
            read_checkpoint(source)

    def test_a_name_that_is_too_long(self) -> None:
        with pytest.raises(CheckpointError, match="too long"):
            read_checkpoint("x" * 5000)

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.pt")
        with pytest.raises(CheckpointError, match="a device or a pipe"):
            read_checkpoint(tmp_path / "pipe.pt")

    def test_folder_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="pass the file"):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize("held", [[torch.ones(1)], torch.ones(1), 3, {}, {"a": 1}, {1: torch.ones(1)}])
    def test_no_state_dict(self, held: Any, tmp_path: Path) -> None:
        torch.save(held, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=r"Expected .*x\.pt"):
            read_checkpoint(tmp_path / "x.pt")

    def test_compressed_records_would_be_read_as_numbers(self, tmp_path: Path) -> None:
        path = archive(tmp_path, tensors())
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for record in old.infolist():
                new.writestr(record.filename, old.read(record))
        with pytest.raises(CheckpointError, match="compressed records"):
            read_checkpoint(tmp_path / "small.pt")

    def test_record_twice(self, tmp_path: Path) -> None:
        path = archive(tmp_path, tensors())
        with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.writestr(next(name for name in file.namelist() if name.endswith("data/0")), b"1")
        with pytest.raises(CheckpointError, match="twice"):
            read_checkpoint(path)

    def test_without_safetensors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = safe(tmp_path, tensors())
        monkeypatch.setitem(sys.modules, "safetensors", None)
        assert_same(read_checkpoint(path), tensors())


FUZZED = {"archive": archive, "legacy": legacy, "safetensors": safe, "distributed": distributed}


@pytest.mark.parametrize("write", FUZZED.values(), ids=FUZZED)
def test_any_damage_is_a_clear_error_or_none(write: Write, tmp_path: Path) -> None:
    random = Random(0)
    path = write(tmp_path, {"a.w": torch.randn(4, 3), "b": torch.tensor(3)})
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    whole = {file: file.read_bytes() for file in files}
    for number in range(120):
        file = files[number % len(files)]
        data = bytearray(whole[file])
        for _ in range(random.choice([1, 1, 3])):
            data[random.randrange(len(data))] = random.randrange(256)
        file.write_bytes(data if random.random() < 0.8 else data[: random.randrange(len(data))])
        with contextlib.suppress(CheckpointError):
            found = read_checkpoint(path)
            assert all(isinstance(found[name], torch.Tensor) for name in found)
        file.write_bytes(whole[file])


class TestIndex:
    def index(self, folder: Path, places: Any) -> Path:
        torch.save({"a": torch.ones(1)}, folder / "one.bin")
        torch.save({"b": torch.ones(1)}, folder / "two.bin")
        path = folder / "pytorch_model.bin.index.json"
        path.write_text(places if isinstance(places, str) else json.dumps({"weight_map": places}))
        return path

    def test_order_of_the_index(self, tmp_path: Path) -> None:
        assert list(read_checkpoint(self.index(tmp_path, {"b": "two.bin", "a": "one.bin"}))) == ["b", "a"]

    @pytest.mark.parametrize("name", ["../one.bin", "/etc/passwd", "a/../../one.bin", "..\\one.bin", "C:\\one.bin"])
    def test_other_places(self, name: str, tmp_path: Path) -> None:
        folder = tmp_path / "inner"
        folder.mkdir()
        torch.save({"a": torch.ones(1)}, tmp_path / "one.bin")
        with pytest.raises(CheckpointError, match="not followed"):
            read_checkpoint(self.index(folder, {"a": name}))

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="got a name that leads nowhere"):
            read_checkpoint(self.index(tmp_path, {"a": "x" * 5000}))

    def test_link_out(self, tmp_path: Path) -> None:
        folder = tmp_path / "inner"
        folder.mkdir()
        path = self.index(folder, {"a": "link.bin"})
        (folder / "one.bin").rename(tmp_path / "one.bin")
        (folder / "link.bin").symlink_to("../one.bin")
        with pytest.raises(CheckpointError, match=r"link to .*one\.bin: not followed"):
            read_checkpoint(path)

    def test_link_within(self, tmp_path: Path) -> None:
        path = self.index(tmp_path, {"a": "link.bin"})
        (tmp_path / "link.bin").symlink_to("one.bin")
        assert list(read_checkpoint(path)) == ["a"]

    def test_links_of_a_hub_cache(self, tmp_path: Path) -> None:
        folder = tmp_path / "snapshots" / "0123"
        folder.mkdir(parents=True)
        (tmp_path / "blobs").mkdir()
        path = self.index(folder, {"a": "one.bin"})
        (folder / "one.bin").rename(tmp_path / "blobs" / "abc")
        (folder / "one.bin").symlink_to("../../blobs/abc")
        assert list(read_checkpoint(path)) == ["a"]

    @pytest.mark.parametrize(
        ("places", "message"),
        [
            ({"a": "two.bin"}, "Expected `a` in two.bin"),
            ({"a": "one.bin", "b": "one.bin"}, "Expected `b` in one.bin"),
            ({"a": "none.bin"}, "'none.bin'.*missing"),
            ({}, "weight_map"),
            ({"a": 3}, "weight_map"),
            (["one.bin"], "weight_map"),
            ('{"weight_map": {"a": "one.bin", "a": "two.bin"}}', "got `a` twice"),
            ('{"weight_map": ', "index in JSON"),
            ({"a": "pytorch_model.bin.index.json"}, "got JSON"),
        ],
    )
    def test_index_and_files_disagree(self, places: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(self.index(tmp_path, places))

    def test_tensor_in_two_files(self, tmp_path: Path) -> None:
        path = self.index(tmp_path, {"a": "one.bin", "b": "two.bin"})
        torch.save({"b": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "two.bin")
        with pytest.raises(CheckpointError, match=r"Expected `a` in one\.bin alone, got another in two\.bin"):
            read_checkpoint(path)

    def test_tensor_that_is_not_in_the_index(self, tmp_path: Path) -> None:
        path = self.index(tmp_path, {"a": "one.bin", "b": "two.bin"})
        torch.save({"b": torch.ones(1), "c": torch.zeros(1)}, tmp_path / "two.bin")
        with pytest.raises(CheckpointError, match="also `c`"):
            read_checkpoint(path)


class TestDistributed:
    def edit(self, folder: Path, change: Callable[[Any], None]) -> Path:
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        change(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))
        return folder

    def in_chunks(self, folder: Path) -> Path:
        """A tensor in two chunks, as two processes write it: the rows of one file as two descriptions."""
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

        path = distributed(folder, {"w.0": torch.zeros(2, 3), "w.1": torch.ones(1, 3)})

        def join(metadata: Any) -> None:
            parts = [metadata.state_dict_metadata.pop(f"w.{i}") for i in range(2)]
            whole = parts[0]
            whole.size = torch.Size([3, 3])
            whole.chunks = [
                ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 3])),
                ChunkStorageMetadata(torch.Size([2, 0]), torch.Size([1, 3])),
            ]
            metadata.state_dict_metadata["w"] = whole
            infos = {index.fqn: info for index, info in metadata.storage_data.items()}
            metadata.storage_data = {MetadataIndex("w", torch.Size([2 * i, 0]), i): infos[f"w.{i}"] for i in range(2)}
            metadata.planner_data = {"w": ("w",)}

        return self.edit(path, join)

    def test_chunks_come_together(self, tmp_path: Path) -> None:
        expected = torch.cat([torch.zeros(2, 3), torch.ones(1, 3)])
        assert_same(read_checkpoint(self.in_chunks(tmp_path)), {"w": expected})

    def test_nothing_is_read_before(self, tmp_path: Path) -> None:
        folder = distributed(tmp_path, tensors())
        found = read_checkpoint(folder)
        assert isinstance(found, LazyStateDict) and found.like("conv.weight").device.type == "meta"
        data = next(folder.glob("*.distcp"))
        data.write_bytes(b"\0" * data.stat().st_size)
        with pytest.raises(CheckpointError, match=r"`conv\.weight`.*broken"):
            found["conv.weight"]
        with pytest.raises(KeyError):
            found["other"]

    def test_truncated(self, tmp_path: Path) -> None:
        folder = distributed(tmp_path, tensors())
        data = next(folder.glob("*.distcp"))
        data.write_bytes(data.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="ends before"):
            read_checkpoint(folder)

    def test_shape_unlike_the_metadata(self, tmp_path: Path) -> None:
        folder = distributed(tmp_path, {"w": torch.zeros(2, 3)})

        def change(metadata: Any) -> None:
            metadata.state_dict_metadata["w"].size = torch.Size([3, 2])
            metadata.state_dict_metadata["w"].chunks[0].sizes = torch.Size([3, 2])

        with pytest.raises(CheckpointError, match=r"torch.float32 \(3, 2\).*got torch.float32 \(2, 3\)"):
            read_checkpoint(self.edit(folder, change))["w"]

    @pytest.mark.parametrize("sizes", [(1, 3), (3, 3), (-2, -3)])
    def test_chunks_that_do_not_cover(self, sizes: tuple[int, ...], tmp_path: Path) -> None:
        folder = distributed(tmp_path, {"w": torch.zeros(2, 3)})

        def change(metadata: Any) -> None:
            metadata.state_dict_metadata["w"].chunks[0].sizes = torch.Size(sizes)

        with pytest.raises(CheckpointError, match="`w`"):
            read_checkpoint(self.edit(folder, change))

    def test_file_elsewhere(self, tmp_path: Path) -> None:
        folder = distributed(tmp_path, {"w": torch.zeros(2, 3)})

        def change(metadata: Any) -> None:
            for info in metadata.storage_data.values():
                info.relative_path = "../secret"

        with pytest.raises(CheckpointError, match="not followed"):
            read_checkpoint(self.edit(folder, change))

    @pytest.mark.parametrize("content", [b"", b"\x80", pickle.dumps({"a": 1}), pickle.dumps(None)])
    def test_broken_metadata(self, content: bytes, tmp_path: Path) -> None:
        folder = distributed(tmp_path, {"w": torch.zeros(2, 3)})
        (folder / ".metadata").write_bytes(content)
        with pytest.raises(CheckpointError, match="metadata"):
            read_checkpoint(folder)

    def test_average(self, tmp_path: Path) -> None:
        folder = distributed(tmp_path, {"state_dict": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}})
        assert read_checkpoint(folder)["w"] == 0 and read_checkpoint(folder, weights="average")["w"] == 1


MEGABYTES = 64
LOOK = """
import json, sys
from pathlib import Path
import lightning.pytorch, torch  # with what they import: transformers, where it is installed
before = set(sys.modules)
from torch import nn
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.transfer_weights import transfer_weights

str(transfer_weights(nn.Linear(1, 1), nn.Linear(1, 1)))
heavy = [name for name in ("pandas", "safetensors", "huggingface_hub") if name in set(sys.modules) - before]

import safetensors, torch.distributed.checkpoint

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

used = []
for path in sys.argv[1:]:
    module = nn.ParameterDict({"small": torch.zeros(10)})
    before = resident()
    found = read_checkpoint(path)
    assert found["small"].sum() == 10 and transfer_weights(module, path).share == 1
    used.append(resident() - before)
print(json.dumps({"heavy": heavy, "used": used}))
"""


def test_what_is_not_used_is_not_in_memory_or_imported(tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    state = {f"large{i}": torch.zeros(MEGABYTES * 2**20 // 16) for i in range(4)}  # 4 bytes each, in 4 tensors
    paths = []
    for number, write in enumerate((archive, safe, distributed, indexed("bin"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(str(write(folder, {"small": torch.ones(10), **state})))
    done = subprocess.run([sys.executable, "-c", LOOK, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["heavy"] == [] and max(found["used"]) < MEGABYTES / 4


def test_files_are_closed(tmp_path: Path) -> None:
    for write in (archive, legacy, safe, distributed):
        read_checkpoint(write(tmp_path, tensors()))  # an open file would be a ResourceWarning, which is an error
    with contextlib.suppress(CheckpointError):
        read_checkpoint(tmp_path / "no.pt")
