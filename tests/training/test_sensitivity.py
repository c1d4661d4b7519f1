"""Sensitivity: what each layer loses by being pruned alone, and that nothing else changes."""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_autoarch.core.errors import MissingPackageError, PruneTypeError, PruneValueError, SearchError
from lightning_autoarch.prune import prune_
from lightning_autoarch.training.sensitivity import sensitivity

pytest.importorskip("pandas", reason="pandas is not installed")
CPU = {"accelerator": "cpu"}


def trained(tmp_path: Path, **options: Any) -> nets.Net:
    torch.manual_seed(0)
    net = nets.Net(width=8, **options)
    nets.trainer(tmp_path, max_epochs=3).fit(net, *nets.loaders())
    return net


def loss(net: nets.Net, data: Any) -> float:
    with torch.no_grad():
        return float(copy.deepcopy(net).eval()._loss(data.tensors))


def test_each_layer_alone(tmp_path: Path) -> None:
    net, data = trained(tmp_path), nets.samples(16, 1)
    frame = sensitivity(net, DataLoader(data, batch_size=16), (0.5, 1.0), trainer_kwargs=CPU)
    assert list(frame.columns) == ["layer", "sparsity", "score", "change"]
    assert frame.attrs == {"monitor": "val_loss", "dense": pytest.approx(loss(net, data))}
    assert list(frame.layer) == ["net.0.weight"] * 2 + ["net.3.weight"] * 2 and list(frame.sparsity) == [0.5, 1.0] * 2
    for row in frame.itertuples():
        pruned = copy.deepcopy(net)
        prune_([pruned.get_parameter(row.layer)], sparsity=row.sparsity)
        assert row.score == pytest.approx(loss(pruned, data))
        assert row.change == pytest.approx(row.score - frame.attrs["dense"])


def test_nothing_of_the_caller_changes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = trained(tmp_path)
    trainer, before = net.trainer, copy.deepcopy(net.state_dict())
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(nets.samples(16, 1), batch_size=4, shuffle=True, generator=generator)
    states = torch.get_rng_state(), generator.get_state()
    numbers = random.getstate(), np.random.get_state()[1].tolist()
    capfd.readouterr()
    frame = sensitivity(net, loader, [0.9], trainer_kwargs=CPU)
    assert capfd.readouterr().out == ""
    assert net.trainer is trainer and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0]) and torch.equal(generator.get_state(), states[1])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == numbers
    assert frame.equals(sensitivity(net, loader, [0.9], trainer_kwargs=CPU))
    assert {path.name for path in tmp_path.iterdir()} == set()


def test_a_datamodule_is_set_up_once(tmp_path: Path) -> None:
    net, data = trained(tmp_path), nets.Data()
    frame = sensitivity(net, data, [0.8], trainer_kwargs=CPU)
    assert data.calls == ["prepare", "setup"] and data.trainer is None
    assert frame.equals(sensitivity(net, nets.loaders()[1], [0.8], trainer_kwargs=CPU))


def test_targets_and_exclude(tmp_path: Path) -> None:
    net, loader = trained(tmp_path), nets.loaders()[1]
    assert set(sensitivity(net, loader, [0.5], exclude="net.0", trainer_kwargs=CPU).layer) == {"net.3.weight"}
    assert set(sensitivity(net, loader, [0.5], targets="net.0.*", trainer_kwargs=CPU).layer) == {
        "net.0.weight",
        "net.0.bias",
    }


def test_the_loader_of_the_module_itself() -> None:
    class Own(nets.Net):
        def val_dataloader(self) -> Any:
            return nets.loaders()[1]

    assert len(sensitivity(Own(), None, [0.5], trainer_kwargs=CPU)) == 2


def test_a_tied_weight_is_one_layer(tmp_path: Path) -> None:
    net = nets.Net(width=4, layers=[{"width": 4}])
    net.net[3].weight = net.net[0].weight
    frame = sensitivity(net, nets.loaders()[1], [1.0], trainer_kwargs=CPU)
    assert list(frame.layer) == ["net.0.weight", "net.6.weight"]


def test_a_loss_that_is_not_finite_is_told(tmp_path: Path) -> None:
    class Diverged(nets.Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", 1 / self.net[0].weight.detach().count_nonzero())

    frame = sensitivity(Diverged(), nets.loaders()[1], [0.5, 1.0], targets="net.0", trainer_kwargs=CPU)
    assert frame.score[0] == 1 / 8 and np.isinf(frame.score[1]) and np.isinf(frame.change[1])


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"sparsities": []}, PruneValueError, r"in \[0, 1\], at least one, got none"),
            ({"sparsities": [0.5, 1.5]}, PruneValueError, r"in \[0, 1\], at least one, got 1\.5"),
            ({"sparsities": [float("nan")]}, PruneValueError, r"got nan"),
            ({"sparsities": 0.5}, PruneTypeError, r"a list of numbers, got 0\.5"),
            ({"targets": "head"}, PruneValueError, "`head` of `targets` matches no weight"),
            ({"monitor": "val_los"}, SearchError, r"logged `val_loss`\. Did you mean `val_loss`\?"),
        ],
    )
    def test_arguments(self, arguments: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            sensitivity(nets.Net(), nets.loaders()[1], **{"trainer_kwargs": CPU, **arguments})

    def test_nan(self) -> None:
        net = nets.Net()
        nn.init.constant_(net.net[3].weight, float("nan"))
        with pytest.raises(PruneValueError, match=r"`net\.3\.weight` cannot be pruned: .*NaN"):
            sensitivity(net, nets.loaders()[1], trainer_kwargs=CPU)

    def test_without_pandas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingPackageError, match=r'pip install "lightning-autoarch\[report\]"'):
            sensitivity(nets.Net(), nets.loaders()[1])


class TestPlot:
    @staticmethod
    def frame(layers: int = 2) -> Any:
        import pandas

        rows = [(f"net.<{i}>.weight", s, 1.0 + i * s, i * s) for i in range(layers) for s in (0.9, 0.5)]
        return pandas.DataFrame(rows, columns=["layer", "sparsity", "score", "change"])

    def test_a_line_a_layer_from_the_dense_module_on(self) -> None:
        pytest.importorskip("plotly", reason="plotly is not installed")
        from lightning_autoarch.report.sensitivity import plot_sensitivity

        figure = plot_sensitivity(self.frame())
        assert [line.name for line in figure.data] == ["net.&lt;0&gt;.weight", "net.&lt;1&gt;.weight"]
        assert list(figure.data[1].x) == [0.0, 0.5, 0.9] and list(figure.data[1].y) == [1.0, 1.5, 1.9]
        assert figure.layout.shapes[0].y0 == 1.0
        frame = self.frame(20)
        frame.attrs.update(monitor="val_<acc>", dense=2.0)
        figure = plot_sensitivity(frame)
        assert figure.layout.yaxis.title.text == "val_&lt;acc&gt;" and figure.data[0].y[0] == 2.0
        assert len({(line.line.color, line.line.dash) for line in figure.data[:12]}) == 12
        figure.to_html()

    def test_another_table(self) -> None:
        pytest.importorskip("plotly", reason="plotly is not installed")
        from lightning_autoarch.report.sensitivity import plot_sensitivity

        with pytest.raises(PruneTypeError, match="without the column `score`"):
            plot_sensitivity(self.frame().drop(columns="score"))
        with pytest.raises(PruneTypeError, match="without rows"):
            plot_sensitivity(self.frame(0))

    def test_without_plotly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from lightning_autoarch.report.sensitivity import plot_sensitivity

        monkeypatch.setitem(sys.modules, "plotly", None)
        with pytest.raises(MissingPackageError, match=r'pip install "lightning-autoarch\[report\]"'):
            plot_sensitivity(self.frame())
