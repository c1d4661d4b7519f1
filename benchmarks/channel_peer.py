"""Torch-Pruning on a net, by its own documented interface: the channel ratio that leaves the wanted share of FLOPs.

`MagnitudePruner` with `MagnitudeImportance`; layers that make the outputs are ignored, as its README does with the
classifier; `round_to=1`; with `num_heads` and without, ranked over all layers and in each.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_autoarch.structure.calls import run_on
from lightning_autoarch.structure.cost import cost_of

RATIOS = (0.25, 0.4, 0.55, 0.7, 0.9)  # the first that is enough, then between it and the one before
PROBES = 4  # bisections of the ratio


@dataclass(frozen=True)
class Way:
    """One of the ways in which its documentation uses it; a net is given the first that does."""

    everywhere: bool  # ranks channels of all layers together
    heads: bool  # is told of the heads


WAYS = [Way(everywhere, heads) for heads in (True, False) for everywhere in (True, False)]


def prune(module: nn.Module, inputs: Any, flops: float) -> tuple[nn.Module, float]:
    """The largest net that it makes with at most so large a share of the FLOPs, and that share.

    Raises what it, or the forward of the net that it makes, raised the first time.
    """
    failed: Exception | None = None
    for way in WAYS:
        try:
            return _pruned(module, inputs, flops, way)
        except Exception as error:  # whatever it raises is the result
            failed = failed or error
    assert failed is not None
    raise failed


def _pruned(module: nn.Module, inputs: Any, flops: float, way: Way) -> tuple[nn.Module, float]:
    before = cost_of(module, inputs).flops
    failed: Exception | None = None
    best: tuple[nn.Module, float] | None = None
    low = high = 0.0

    def tried(ratio: float) -> bool:
        nonlocal best, failed
        try:
            made, left = _at(module, inputs, ratio, way)
        except Exception as error:  # not at this ratio
            failed = failed or error
            return False
        if left > flops * before:
            return False
        best = made, left / before
        return True

    for ratio in RATIOS:
        low, high = high, ratio
        if tried(ratio):
            break
    else:
        raise failed or ValueError(f"more than {flops} of the FLOPs are left at a ratio of {high}")
    for _ in range(PROBES):
        ratio = (low + high) / 2
        low, high = (low, ratio) if tried(ratio) else (ratio, high)
    assert best is not None
    return best


def _at(module: nn.Module, inputs: Any, ratio: float, way: Way) -> tuple[nn.Module, int]:
    import torch_pruning

    made = copy.deepcopy(module)
    heads = _heads(made) if way.heads else {}
    torch_pruning.pruner.MagnitudePruner(
        made,
        inputs,
        torch_pruning.importance.MagnitudeImportance(),
        global_pruning=way.everywhere,
        pruning_ratio=ratio,
        ignored_layers=_last(made, inputs),
        round_to=1,
        num_heads=heads,
        prune_num_heads=bool(heads),
        head_pruning_ratio=ratio if heads else 0.0,
    ).step()
    _set_heads(made, heads)  # as its examples do
    run_on(made, inputs)
    return made, cost_of(made, inputs).flops


def _last(module: nn.Module, inputs: Any) -> list[nn.Module]:
    """Layers whose result is an output of the net, or is one but for a function without weights."""
    ran: list[tuple[nn.Module, Any]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, out: ran.append((layer, out)))
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    outputs = [x for x in tree_leaves(run_on(module, inputs)) if isinstance(x, Tensor)]
    for hook in hooks:
        hook.remove()
    ends = {x.grad_fn for x in outputs}
    makers = {out.grad_fn: layer for layer, out in ran if isinstance(out, Tensor)}
    found: list[nn.Module] = []
    seen: set[Any] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in makers:
            found.append(makers[node])
        else:
            waiting += [above for above, _ in node.next_functions]
    return found


def _heads(module: nn.Module) -> dict[nn.Module, int]:
    """Layers whose result is split into heads, with how many."""
    found: dict[nn.Module, int] = {}
    for layer in module.modules():
        n = getattr(layer, "heads", getattr(layer, "num_heads", None))
        if isinstance(n, int):
            for name in ("qkv", "packed", "q", "value"):
                if isinstance(getattr(layer, name, None), nn.Linear):
                    found[getattr(layer, name)] = n
            for name in ("k", "v"):
                if isinstance(getattr(layer, name, None), nn.Linear):
                    found[getattr(layer, name)] = getattr(layer, "pairs", n)
    return found


def _set_heads(module: nn.Module, heads: dict[nn.Module, int]) -> None:
    for layer in module.modules():
        size = getattr(layer, "size", None)
        for name in ("qkv", "packed", "q", "value"):
            own = getattr(layer, name, None)
            if own in heads and isinstance(size, int) and hasattr(layer, "heads"):
                layer.heads = own.out_features // size
