"""The page of a transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_autoarch.callbacks.transfer.fine_tune import FineTuned
from lightning_autoarch.callbacks.transfer.tuning_run import Block
from lightning_autoarch.report import write_transfer_report
from lightning_autoarch.report.transferred import finetuned_table
from lightning_autoarch.transfer.transfer_report import TensorReport, TransferReport
from lightning_autoarch.transfer.transfer_weights import transfer_weights

BLOCKS = (Block("body", 20, 0, (2, 2), (0.5, 0.5)), Block("head", 5, 3, (0, 1), (0.7, 1.0)),
          Block("old", 4, 4, None, (1.0, 1.0)), Block("top", 7, 0, None, (1.0, 1.0), (500, 900)))  # fmt: skip


def figures(text: str) -> list[dict[str, Any]]:
    start = text.index(">", text.index('<script type="application/json"')) + 1
    found: list[dict[str, Any]] = json.loads(text[start : text.index("</script>", start)])
    return found


@pytest.fixture
def report() -> TransferReport:
    source = {"0.weight": torch.ones(8, 4), "0.bias": torch.ones(8), "9.weight": torch.ones(3)}
    module = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    return transfer_weights(module, source, on_mismatch="slice")


def test_of_weights_that_were_transferred(tmp_path: Path, report: TransferReport) -> None:
    page = write_transfer_report(
        report, tmp_path, before={"val_acc": 0.1}, after={"val_acc": 0.9}, blocks=BLOCKS, title="Net"
    )
    assert page == tmp_path / "transfer.html"
    text = page.read_text("utf-8")
    assert "<b>35.1%</b><span>of the parameters taken over</span>" in text  # 40 of 114
    assert "<b>0.1 → 0.9</b><span>val_acc</span>" in text
    assert "<b>1</b><span>tensor of the source without a place</span>" in text
    [figure] = figures(text)
    shares = {trace["name"]: trace["x"] for trace in figure["data"]}
    assert figure["layout"]["yaxis"]["ticktext"] == ["whole module", "0", "1"]
    assert shares["sliced"] == pytest.approx([100 * 40 / 114, 50, 0])
    assert shares["rest of those in part"] == pytest.approx([100 * 40 / 114, 50, 0])
    [fresh] = {report["1.weight"].status, report["1.bias"].status}
    assert shares[fresh] == pytest.approx([100 * 34 / 114, 0, 100])
    assert "16 × 4" in text and "8 × 4" in text and "9.weight" in text


def test_how_it_was_trained(tmp_path: Path, report: TransferReport) -> None:
    text = write_transfer_report(report, tmp_path / "p.html", blocks=BLOCKS).read_text("utf-8")
    body = text[text.index("How it was trained") :]
    assert '>20</td><td data-label="trained from epoch">3</td>' in body
    assert ">1 to 2</td>" in body and ">× 0.7 to 1</td>" in body and ">never</td>" in body
    assert '<td data-label="trained from epoch"></td><td data-label="after steps">500 to 900</td>' in body
    alone = write_transfer_report(report, tmp_path / "p.html").read_text("utf-8")
    assert "How it was trained" not in alone and "Scores" not in alone


def test_when_blocks_thawed_as_text() -> None:
    lines = finetuned_table(FineTuned(None, {}, {}, BLOCKS)).splitlines()
    assert [line.split() for line in lines] == [
        ["block", "trained", "from", "epoch", "after", "steps"],
        ["body", "3"], ["head", "1", "to", "2"], ["old", "never"], ["top", "500", "to", "900"],
    ]  # fmt: skip
    assert lines[4].index("500") > lines[1].index("3")
    assert finetuned_table(FineTuned(None, {}, {}, (Block("all", 5, 0, (0, 0), (1.0, 1.0), (0, 0)),))) == ""


def test_hostile_names_and_nothing_at_all(tmp_path: Path) -> None:
    evil = TensorReport("</script><b>", "skipped", "<i>", "<u>", (2,), (3,), True, 2, 0)
    text = write_transfer_report(TransferReport((evil,)), tmp_path / "p.html").read_text("utf-8")
    assert "</script><b>" not in text and "<i>" not in text.replace("<i style", "") and "<u>" not in text
    empty = write_transfer_report(TransferReport(()), tmp_path / "q.html").read_text("utf-8")
    assert "The module has no parameters." in empty
