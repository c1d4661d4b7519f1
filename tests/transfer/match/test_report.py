"""The report: what it counts, prints and hands over."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lightning_autoarch.transfer.transfer_report import TransferReport
from lightning_autoarch.transfer.transfer_weights import transfer_weights


def report() -> TransferReport:
    module = nn.ModuleDict(
        {"a": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "b": nn.Linear(4, 2), "c": nn.Linear(2, 2)}
    )
    state = {
        "module.old.weight": torch.ones(4, 3), "module.old.bias": torch.ones(4), "module.norm.weight": torch.ones(4),
        "module.norm.running_mean": torch.ones(4), "module.b.weight": torch.ones(5, 4), "module.x": torch.ones(2),
    }  # fmt: skip
    return transfer_weights(module, state, rules=[("old", "a")], reinit=["c"])


def test_counts() -> None:
    found = report()
    assert found.counts == {
        "loaded": 2, "renamed": 2, "initialised": 2, "skipped": 1, "missing": 4, "unexpected": 1,
    }  # fmt: skip
    assert (found.parameters, found.taken, found.share) == (12 + 4 + 8 + 8 + 2 + 6, 20, 20 / 40)
    assert [tensor.name for tensor in found][:2] == ["a.weight", "a.bias"]
    assert found["b.weight"].source == "module.b.weight" and found["b.weight"].source_shape == (5, 4)
    with pytest.raises(KeyError):
        found["none"]


def test_table() -> None:
    found = report()
    text = str(found)
    assert text.splitlines()[:3] == [
        "50.0% of 40 parameters taken over",
        "`module.*` of the source is `*` in the module",
        "              tensors    parameters      %",
    ]
    assert "renamed             2            16   40.0" in text
    assert "skipped `b.weight`: (5, 4) in the source, (2, 4) in the module" in text
    assert "unexpected `module.x`" in text
    assert len(text.splitlines()) < 16


def test_table_of_a_prefix() -> None:
    source = nn.Linear(2, 2)
    assert "`net.*` of the source is `*` in the module" in str(
        transfer_weights(nn.Linear(2, 2), nn.ModuleDict({"net": source}))
    )


def test_long_lists_are_cut() -> None:
    module = nn.ModuleDict({f"l{i}": nn.Linear(1, 1) for i in range(30)})
    text = str(transfer_weights(module, {"l0.weight": torch.ones(1, 1)}))
    assert "missing: 54 more" in text and len(text.splitlines()) < 12


def test_plain_data() -> None:
    held = report().to_dict()
    assert json.loads(json.dumps(held)) == held
    assert held["tensors"][0] == {
        "name": "a.weight", "status": "renamed", "reason": "", "source": "module.old.weight", "shape": [4, 3],
        "source_shape": [4, 3], "is_parameter": True, "numel": 12, "taken": 12,
    }  # fmt: skip


def test_dataframe() -> None:
    pytest.importorskip("pandas")
    frame = report().to_dataframe()
    assert len(frame) == 12 and frame.set_index("name").loc["a.weight", "status"] == "renamed"
    assert list(TransferReport(()).to_dataframe().columns) == list(frame.columns)


def test_of_nothing() -> None:
    empty = TransferReport(())
    assert (empty.share, empty.counts, empty.parameters) == (0, {}, 0) and "0.0% of 0 parameters" in str(empty)


def test_no_control_characters_of_a_file_reach_the_terminal() -> None:
    report = transfer_weights(torch.nn.Linear(2, 2), {**torch.nn.Linear(2, 2).state_dict(), "\x1b[2J": torch.zeros(1)})
    assert "\x1b" not in str(report)
    assert "unexpected `\\x1b[2J`" in str(report)
