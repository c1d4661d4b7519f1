"""What of a module is new, and what that says about which of its layers is the head.

A module registers its layers in any order, and may have some that it never uses: the layer that is registered last is
only a guess of where its outputs come from. What a checkpoint did not have is better evidence. It was not trained, so
it has to be, and the layer among it that can give outputs is the head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from torch import nn

from lightning_autoarch.transfer.match.report import TAKEN, TransferReport
from lightning_autoarch.transfer.patterns import Names
from lightning_autoarch.transfer.tune.blocks import OUTPUTS
from lightning_autoarch.transfer.tune.norms import STATISTICS

HEAD = re.compile(r"(^|[._])(head|heads|classifier|lm_head|fc|logits|output|predictor)(\.|$)")


def not_taken_over(names: Names, report: TransferReport) -> set[str]:
    """First names of parameters, and paths of norms without any, that have nothing of a source.

    A norm whose statistics were not taken over is new as a whole: in eval it would normalise by what it was made with.

    Args:
        names: of the module.
        report: of the transfer into it.
    """
    taken = {tensor.name for tensor in report if tensor.status in TAKEN}
    new = {name for name in names.parameters if taken.isdisjoint(names.raw([name]))}
    known = {tensor.name for tensor in report if tensor.shape is not None}
    for path, (_, units) in names.norms.items():
        statistics = {f"{path}.{leaf}".lstrip(".") for leaf in STATISTICS} & known
        if statistics and not statistics & taken:
            new.update(units)
    return new


def head_of_new(module: nn.Module, names: Names, new: Collection[str], usual: Sequence[str]) -> set[str]:
    """Names of the output layer's parameters as what is new tells; none where it tells nothing.

    Args:
        module: any module.
        names: of it.
        new: first names of what was not taken over.
        usual: names of the block that is the head by the order of registration.
    """
    if not new or not set(new).isdisjoint(usual) or any(HEAD.search(name) for name in usual):
        return set()
    first = {id(parameter): name for name, parameter in names.parameters.items()}
    layers = [layer for layer in module.modules() if isinstance(layer, OUTPUTS)]
    gives = any(first.get(id(layer._parameters.get("weight"))) in new for layer in layers)
    return set(new) & set(names.parameters) if gives else set()
