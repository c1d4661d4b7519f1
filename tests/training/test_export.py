"""Files for other tools: what they hold, that they give the module's output, and that the module is left alone."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from torch import nn

from lightning_autoarch.core.errors import (
    AutoArchError,
    ExportError,
    MissingPackageError,
    PruneTypeError,
    PruneValueError,
)
from lightning_autoarch.prune import prune_
from lightning_autoarch.training import export as export_module
from lightning_autoarch.training import graph_files, weight_files
from lightning_autoarch.training.export import ExportReport, export
from lightning_autoarch.training.sparse_file import load_sparse

pytest.importorskip("safetensors", reason="safetensors is not installed")
from safetensors.torch import load_file

X = torch.linspace(-1, 1, 12).view(3, 4)
WEIGHTS = [".pt", ".pth", ".safetensors", ".sparse.safetensors"]
EVERY = [*WEIGHTS, ".pt2", ".onnx"]


@pytest.fixture(autouse=True)
def _onnx(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if "onnx" in request.node.name or (callspec and ".onnx" in callspec.params.values()):
        for package in graph_files.ONNX.split():
            pytest.importorskip(package, reason=f"{package} is not installed")


class Noted(nn.Module):
    """Counts its calls in a buffer, is different in training, and takes and gives more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 40), nn.BatchNorm1d(40), nn.Dropout(0.5), nn.Linear(40, 4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        self.hidden = self.hidden + 1
        out = self.block(x)
        return {"sum": out + shift + self.calls, "index": out.argmax(1)}


def reload(path: Path) -> dict[str, torch.Tensor]:
    if path.name.endswith(".sparse.safetensors"):
        return load_sparse(path)
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def test_formats_are_known_by_their_suffixes() -> None:
    found = {suffix: export_module._format_of(Path(f"a.b{suffix}"), None) for suffix in export_module.FORMATS}
    assert found == export_module.FORMATS
    assert export_module._format_of(Path("NET.ONNX"), None) == "onnx"


@pytest.mark.parametrize("suffix", EVERY)
class TestEveryFormat:
    def test_a_lightning_module_with_a_trainer(self, suffix: str, tmp_path: Path) -> None:
        net, path = nets.Net(), tmp_path / f"net{suffix}"
        net.example_input_array = X
        trainer = nets.trainer(tmp_path, max_epochs=1)
        trainer.fit(net, *nets.loaders())
        report = export(net, path)
        assert report == ExportReport(path, report.format, path.stat().st_size, 100, report.max_difference)
        assert report.max_difference is not None and report.max_difference < 1e-5
        assert net.trainer is trainer and net.training
        assert b"Trainer" not in path.read_bytes() and b"autoarch" not in path.read_bytes().replace(b"autoarch.", b"")

    def test_the_module_is_left_alone(self, suffix: str, tmp_path: Path) -> None:
        net = Noted()
        net.block[2].eval()
        before = copy.deepcopy(net.state_dict()) | {"hidden": net.hidden}
        modes = [child.training for child in net.modules()]
        gradient = net.block[0].weight.grad = torch.ones(40, 4)
        rng, hidden, x = torch.get_rng_state(), net.hidden, X.clone()
        report = export(net, tmp_path / f"net{suffix}", example_inputs={"x": x, "shift": torch.ones(4)})
        assert report.max_difference is not None and report.max_difference < 1e-5
        assert modes == [child.training for child in net.modules()] and net.hidden is hidden
        now = net.state_dict() | {"hidden": net.hidden}
        assert all(torch.equal(now[name], value) for name, value in before.items())
        assert torch.equal(torch.get_rng_state(), rng) and torch.equal(x, X) and torch.is_grad_enabled()
        assert net.block[0].weight.grad is gradient and net.block[0].weight.requires_grad
        if suffix in WEIGHTS:
            assert reload(report.path)["calls"] == 0

    def test_the_file_takes_its_place_when_it_is_whole(
        self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / f"net{suffix}"
        path.write_bytes(b"old")
        monkeypatch.setattr(export_module, "difference", lambda got, expected: 1.0)
        with pytest.raises(ExportError, match=r"number 0 differs by 1, allowed is .*Nothing was written"):
            export(nets.Net(), path, example_inputs=X)
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
        export(nets.Net(), path, example_inputs=X, tolerance=1.0)
        assert path.read_bytes() != b"old" and list(tmp_path.iterdir()) == [path]

    def test_inputs_that_do_not_fit(self, suffix: str, tmp_path: Path) -> None:
        net = nets.Net()
        with pytest.raises(ExportError, match=r"Net does not run on `example_inputs`: .*in `net\.0`, a Linear"):
            export(net, tmp_path / f"net{suffix}", example_inputs=torch.ones(3, 5))
        assert list(tmp_path.iterdir()) == [] and net.training


@pytest.mark.parametrize("suffix", WEIGHTS)
class TestWeights:
    def test_they_load_into_the_plain_module(self, suffix: str, tmp_path: Path) -> None:
        net, path = Noted(), tmp_path / f"net{suffix}"
        prune_([net.block[0].weight], sparsity=0.9)
        report = export(net, path)
        assert report.max_difference is None  # no inputs: the bits were compared
        state = reload(path)
        assert sorted(state) == sorted(net.state_dict())
        assert type(state) is dict and all(type(value) is torch.Tensor for value in state.values())
        other = Noted()
        other.load_state_dict(state)
        assert all(torch.equal(value, net.state_dict()[name]) for name, value in other.state_dict().items())

    def test_tied_weights(self, suffix: str, tmp_path: Path) -> None:
        net = nn.Sequential(nn.Embedding(300, 40), nn.Linear(40, 300, bias=False))
        net[1].weight = net[0].weight
        report = export(net, tmp_path / f"net{suffix}", example_inputs=torch.arange(3))
        assert report.dense_bytes == 48_000 and report.max_difference == 0
        assert report.bytes // 48_000 == (2 if suffix == ".safetensors" else 1)
        net.load_state_dict(reload(report.path))

    def test_names_without_what_compile_adds(self, suffix: str, tmp_path: Path) -> None:
        net = nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 4), backend="eager"))
        for module, names in [(net, ["0", "1"]), (torch.compile(net, backend="eager"), ["0", "1"])]:
            report = export(module, tmp_path / f"net{suffix}")
            assert sorted(reload(report.path)) == [f"{name}.{kind}" for name in names for kind in ("bias", "weight")]

    def test_a_view_is_stored_without_what_it_is_a_view_of(self, suffix: str, tmp_path: Path) -> None:
        net = nn.Linear(4, 4)
        net.weight.data = torch.ones(1000, 4)[:4]
        assert export(net, tmp_path / f"net{suffix}").bytes < 5000

    def test_a_file_that_gives_back_something_else(
        self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        form = export_module.FORMATS[suffix]
        read = weight_files._READ[form]
        monkeypatch.setitem(weight_files._READ, form, lambda path: {**read(path), "bias": torch.zeros(4)})
        with pytest.raises(ExportError, match="gives back another `bias`"):
            export(nn.Linear(4, 4), tmp_path / f"net{suffix}")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_not_initialised(self, suffix: str, tmp_path: Path) -> None:
        with pytest.raises(PruneTypeError, match="`weight`, got a UninitializedParameter"):
            export(nn.LazyLinear(3), tmp_path / f"net{suffix}")


class Extra(nn.Linear):
    def __init__(self, extra: Any) -> None:
        super().__init__(4, 4)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state(tmp_path: Path) -> None:
    export(Extra({"steps": 3}), tmp_path / "net.pt")
    other = Extra(None)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert other.extra == {"steps": 3}
    with pytest.raises(PruneTypeError, match="Expected a tensor under `_extra_state`, got dict"):
        export(Extra({"steps": 3}), tmp_path / "net.safetensors")
    with pytest.raises(ExportError, match="does not load with weights_only=True"):
        export(Extra(Path("x")), tmp_path / "other.pt")


def test_the_sparse_file_is_small(tmp_path: Path) -> None:
    net = nn.Linear(400, 400)
    prune_([net.weight], sparsity=0.9)
    report = export(net, tmp_path / "net.sparse.safetensors", example_inputs=torch.ones(1, 400))
    assert report.bytes < 0.14 * report.dense_bytes and report.max_difference == 0


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, *, factor: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return x * factor - offset


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
class TestGraphs:
    def test_keyword_inputs_in_any_order(self, suffix: str, tmp_path: Path) -> None:
        inputs = {"offset": torch.full((3,), 5.0), "x": torch.ones(3), "factor": torch.full((3,), 2.0)}
        assert export(Scaled(), tmp_path / f"net{suffix}", example_inputs=inputs).max_difference == 0

    def test_an_input_that_is_not_used(self, suffix: str, tmp_path: Path) -> None:
        class Half(nn.Module):
            def forward(self, x: torch.Tensor, unused: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return x - y

        inputs = (torch.ones(3), torch.zeros(2), torch.full((3,), 7.0))
        assert export(Half(), tmp_path / f"net{suffix}", example_inputs=inputs).max_difference == 0

    def test_an_open_batch_size(self, suffix: str, tmp_path: Path) -> None:
        path, net = tmp_path / f"net{suffix}", nets.Net().eval()
        export(net, path, example_inputs=X, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        x = torch.ones(7, 4)
        (got,) = graph_files.run_graph(export_module.FORMATS[suffix], path, graph_files.Inputs((x,)))
        torch.testing.assert_close(got, net(x))

    def test_a_convolution_and_attention(self, suffix: str, tmp_path: Path) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
                self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.layer(self.conv(x).transpose(1, 2)).mean(1)

        report = export(Mixed(), tmp_path / f"net{suffix}", example_inputs=torch.ones(2, 4, 6))
        assert report.max_difference is not None and report.max_difference < 1e-5

    def test_without_inputs(self, suffix: str, tmp_path: Path) -> None:
        for net in (nn.Linear(4, 4), nets.Net()):
            with pytest.raises(ExportError, match=r"Expected `example_inputs` for .*example_input_array"):
                export(net, tmp_path / f"net{suffix}")

    def test_a_forward_that_cannot_be_traced(self, suffix: str, tmp_path: Path) -> None:
        class Branch(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x if x.sum() > 0 else -x

        net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branch())).train()
        place = r"Sequential cannot be exported to .*in `1\.0`, a Branch, at test_export\.py:\d+\)$"
        with pytest.raises(ExportError, match=place):
            export(net, tmp_path / f"net{suffix}", example_inputs=X)
        assert net.training and list(tmp_path.iterdir()) == []

    def test_no_tensor_comes_out(self, suffix: str, tmp_path: Path) -> None:
        class Silent(nn.Module):
            def forward(self, x: torch.Tensor) -> None:
                return None

        with pytest.raises(AutoArchError, match="forward of Silent to return tensors"):
            export(Silent(), tmp_path / f"net{suffix}", example_inputs=X)


def test_an_onnx_file_that_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"nonsense")
    with pytest.raises(ExportError, match="The onnx file was written but does not run"):
        graph_files.run_graph("onnx", path, graph_files.Inputs((X,)))


@pytest.mark.parametrize(
    ("packages", "name", "message"),
    [
        (["onnx"], "net.onnx", "An ONNX file needs onnx .*pip install onnx onnxscript onnxruntime"),
        (["onnxruntime"], "net.onnx", "An ONNX file needs onnx.*pip install onnx onnxscript onnxruntime"),
        (["safetensors", "safetensors.torch"], "net.safetensors", "needs safetensors .*pip install safetensors"),
        (["safetensors", "safetensors.torch"], "net.sparse.safetensors", "needs safetensors .*pip install safetensors"),
    ],
)
def test_a_missing_package(
    packages: list[str], name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=message):
        export(nets.Net(), tmp_path / name, example_inputs=X)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: export(nets.Net(), "net.ckpt"), ExportError, r"end with one of \.sparse.*got net\.ckpt"),
        (lambda: export(nets.Net(), "net.pt", format="tflite"), ExportError, r"one of 'sparse'.*got 'tflite'"),
        (lambda: export({}, "net.pt"), ExportError, "to be an nn.Module, got dict"),  # type: ignore[arg-type]
        (lambda: export(nets.Net(), "folder.pt"), PruneValueError, "to be a file, got the directory"),
    ],
)
def test_paths_and_formats(
    call: Callable[[], Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(error, match=message):
        call()


def test_a_format_can_be_given(tmp_path: Path) -> None:
    report = export(nets.Net(), tmp_path / "made" / "weights", format="safetensors", example_inputs=X)
    assert report.format == "safetensors" and "net.0.bias" in load_file(report.path)


@pytest.mark.gpu
@pytest.mark.parametrize("suffix", [*WEIGHTS, ".pt2", ".onnx"])
def test_on_a_gpu(suffix: str, tmp_path: Path) -> None:
    net = nets.Net().cuda()
    rng = torch.cuda.get_rng_state()
    report = export(net, tmp_path / f"net{suffix}", example_inputs=X)
    assert report.max_difference is not None and report.max_difference < 1e-3
    assert all(parameter.is_cuda for parameter in net.parameters()) and torch.equal(torch.cuda.get_rng_state(), rng)
    if suffix in WEIGHTS:
        assert all(value.device.type == "cpu" for value in reload(report.path).values())
