"""Tensors that hold several matrices on top of one another: gates of an LSTM, queries, keys and values of attention.

What is leading of such a stack is not what is leading of its parts: "slice" cuts each part by itself.

    LSTM, GRU                       4, 3 gates in the rows; with two directions 2 inputs in the columns of later layers
    MultiheadAttention, `qkv`       3 in the rows
"""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

Parts: TypeAlias = dict[int, int]  # dimension -> how many parts it holds

GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1}
FUSED = ("qkv", "to_qkv", "Wqkv")


def stacks_of(module: nn.Module) -> dict[str, Parts]:
    """For the tensors of a module that are stacks, by name, what they hold."""
    found: dict[str, Parts] = {}
    for path, layer in module.named_modules():
        dot = f"{path}." if path else ""
        for leaf, _ in layer.named_parameters(recurse=False):
            parts = _parts(path, layer, leaf)
            if any(count > 1 for count in parts.values()):
                found[f"{dot}{leaf}"] = parts
    return found


def _parts(path: str, layer: nn.Module, leaf: str) -> Parts:
    gates = next((count for kind, count in GATES.items() if isinstance(layer, kind)), 0)
    if gates and not leaf.startswith("weight_hr"):
        both = getattr(layer, "bidirectional", False) and leaf.startswith("weight_ih") and "_l0" not in leaf
        return {0: gates} | ({1: 2} if both else {})
    if isinstance(layer, nn.MultiheadAttention) and leaf.startswith("in_proj"):
        return {0: 3}
    if isinstance(layer, nn.Linear) and path.rpartition(".")[2] in FUSED:
        return {0: 3} if layer.out_features == 3 * layer.in_features else {}  # not with fewer keys than queries
    return {}
