"""The page of a pruning."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lightning_autoarch.callbacks.prune.costs import Costs
from lightning_autoarch.callbacks.prune.prune_trained import Layer, Pruned
from lightning_autoarch.core.errors import ReportError
from lightning_autoarch.report import write_pruning_report
from lightning_autoarch.report.bars import short_names

LAYERS = (Layer("net.0.weight", 1000, 100), Layer("net.1.weight", 10, 10))
COSTS = (
    Costs(1020, 1020, 4080, flops=2000, nonzero_flops=2000, seconds=0.002),
    Costs(1020, 120, 4080, flops=2000, nonzero_flops=220, seconds=0.0021),
)
PRUNED = Pruned({"val_acc": 0.9}, {"val_acc": 0.85}, LAYERS, (), COSTS, ("Of `x` on a CPU.",))
SIZES = {"dense": 5000, "before": 5000, "sparse": 900}


def figures(text: str) -> list[dict[str, Any]]:
    start = text.index(">", text.index('<script type="application/json"')) + 1
    found: list[dict[str, Any]] = json.loads(text[start : text.index("</script>", start)])
    return found


@pytest.fixture
def text(tmp_path: Path) -> str:
    return write_pruning_report(PRUNED, tmp_path / "deep" / "page.html", sizes=SIZES, title="Net").read_text("utf-8")


def test_tiles_and_numbers(text: str) -> None:
    for big, small in (
        ("89.1%", "sparsity"),
        ("5\xa0kB\xa0→ 900\xa0B", "on disk, as a sparse file"),
        ("2k", "FLOPs, as before"),
        ("2\xa0ms\xa0→ 2.1\xa0ms", "latency"),
        ("0.9\xa0→ 0.85", "val_acc"),
    ):
        assert f"<b>{big}</b><span>{small}</span>" in text
    assert "Of <code>x</code> on a CPU." in text
    assert "Of 1,010 weights in 2 tensors 110 are kept, the others are 0." in text


def test_pictures(text: str) -> None:
    costs, layers = figures(text)
    shares = dict(zip(costs["layout"]["yaxis"]["ticktext"], costs["data"][1]["x"], strict=True))
    assert shares == pytest.approx(
        {"on disk, as a sparse file": 18, "parameters": 100, "parameters not 0": 100 * 120 / 1020, "FLOPs": 100,
         "FLOPs of weights not 0": 11, "latency": 105}
    )  # fmt: skip
    assert layers["data"][0]["x"] == pytest.approx([90, 0])
    assert layers["layout"]["yaxis"]["ticktext"] == ["net.0.weight", "net.1.weight"]


def test_same_numbers_same_file_and_nothing_from_the_network(tmp_path: Path, text: str) -> None:
    again = write_pruning_report(PRUNED, tmp_path, sizes=SIZES, title="Net")
    assert again == tmp_path / "pruned.html" and again.read_text("utf-8") == text
    assert "default-src 'none'" in text and text.count("plotly.js v") == 1


def test_many_layers_with_long_and_hostile_names(tmp_path: Path) -> None:
    names = [f"net.encoder.layers.{i}.<script>attention</script>.feed_forward.weight" for i in range(60)]
    layers = tuple(Layer(name, 10, 5) for name in names)
    page = write_pruning_report(Pruned({}, {}, layers), tmp_path / "p.html", title="</title><b>").read_text("utf-8")
    assert "<script>attention" not in page and "</title><b>" not in page
    [figure] = figures(page)
    assert len(set(figure["layout"]["yaxis"]["ticktext"])) == 60  # told apart, though they are cut
    assert figure["layout"]["height"] > 60 * 20
    assert '<div class="scroll tall"><div class="scroll"><div class="plot"' in page


def test_nothing_known_nothing_pruned(tmp_path: Path) -> None:
    page = write_pruning_report(Pruned({}, {}), tmp_path / "p.html").read_text("utf-8")
    assert "Nothing was pruned." in page and "plotly.js v" not in page


def test_short_names_keep_what_differs() -> None:
    long = [f"{'module.' * 8}{i}.weight" for i in range(3)]
    assert short_names(["all", *long]) == ["all", "…0.weight", "…1.weight", "…2.weight"]
    assert short_names([]) == []


def test_without_plotly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    with pytest.raises(ReportError, match=r'pip install "lightning-autoarch\[report\]"'):
        write_pruning_report(PRUNED, tmp_path / "p.html")
    assert not list(tmp_path.iterdir())
