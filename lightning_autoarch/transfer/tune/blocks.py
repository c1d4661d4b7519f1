"""The layers of a module from its input to its output, as layer-wise learning rates and gradual thawing count them.

Layers are assumed to be registered in the order in which data pass through them. Starting at the root:

    a Sequential, ModuleList or ModuleDict              each of its elements is visited
    a module that is an attribute and holds one of them each of its children is visited, and those of the root
    an element of one of them that is itself a module   one block, unless it holds a stack: two composite modules of one
                                                        class in a Sequential or list, as a whole ResNet does
    everything else                                     one block

What cannot be a block of its own joins the one before it, or the one behind it if there is none: a block without a
matrix (a norm, a scale), and parameters of a visited module itself (a class token, position embeddings), which are
added to its input. Embeddings side by side (of tokens, of positions) are one block. A tied parameter belongs to its
first place. So a ViT is: patches and tokens, each encoder layer (with the last norm), head; ResNet-18 is: stem, 8
residual blocks, head. The block of the head is the top one, wherever it is registered. If the output layer shares its
matrix with another layer, such as an embedding, that matrix and the bias are the head; the rest of the other layer's
block stays.

The layer that is registered last is only a guess of where outputs come from. What a checkpoint did not have is better
evidence: it was not trained, so it has to be, and the layer in it that can produce outputs is the head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.nn import Parameter
from torch.nn.utils.parametrize import is_parametrized

from lightning_autoarch.transfer.transfer_report import TAKEN, TransferReport
from lightning_autoarch.transfer.tune.trainable import STATISTICS, TrainableNames

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
OUTPUTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class _Piece:
    """Parameters that belong together.

    Attributes:
        parameters: The parameters.
        stands: Whether they can be a block of their own.
        embeds: Whether they are of an embedding.
    """

    parameters: list[Parameter]
    stands: bool
    embeds: bool = False

    def joins(self, before: _Piece) -> bool:
        return not (self.stands and before.stands) or (self.embeds and before.embeds)

    def __add__(self, behind: _Piece) -> _Piece:
        together = self.parameters + behind.parameters
        return _Piece(together, self.stands or behind.stands, self.embeds and behind.embeds)


def blocks_of(module: nn.Module, names: TrainableNames, head: Collection[str] = ()) -> list[list[str]]:
    """First names of the parameters of each block, from the input to the output; the last block is the head.

    Args:
        module: Any module.
        names: Its names.
        head: Names of the output layer's parameters. Default: the block of the last linear layer or convolution that is
            registered, or the last block of a module without any.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> blocks_of(net, TrainableNames(net))
    [['0.weight', '0.bias', '1.weight', '1.bias'], ['3.weight', '3.bias'], ['4.weight', '4.bias']]
    """
    first = {id(parameter): name for name, parameter in names.parameters.items()}
    found = _joined(_once(_opened(_without_wrappers(module))))
    blocks = [[first[id(p)] for p in piece.parameters if id(p) in first] for piece in found]
    if not blocks:
        return []
    top = set(head) or set(_output_block(module, blocks, first))
    below = [[name for name in block if name not in top] for block in blocks]
    return [*filter(None, below), [name for name in names.parameters if name in top]]


def _without_wrappers(module: nn.Module) -> nn.Module:
    """The module inside modules that do nothing but hold it."""
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    if len(children) == 1 and not module._parameters and not isinstance(children[0], OUTPUTS):
        return _without_wrappers(children[0])
    return module


def _opened(module: nn.Module) -> Iterator[_Piece]:
    """The parameters of a module itself, and the pieces in it."""
    yield _Piece(list(module.parameters(recurse=False)), stands=False)
    listed = isinstance(module, CONTAINERS)
    for child in module.children():
        if _opens(child, listed):
            yield from _opened(child)
        else:
            inside = list(child.parameters())
            yield _Piece(inside, any(p.dim() > 1 for p in inside), isinstance(child, EMBEDDINGS))


def _opens(module: nn.Module, is_element: bool) -> bool:
    if isinstance(module, CONTAINERS):
        return True
    if hasattr(module, "base_layer") or is_parametrized(module):  # one layer, adapted by peft or parametrised
        return False
    inner = [child for child in module.modules() if isinstance(child, CONTAINERS)]
    return any(map(_is_stack, inner)) if is_element else bool(inner)


def _is_stack(container: nn.Module) -> bool:
    """Whether it holds two composite modules of one class."""
    composite = [type(m) for m in container.children() if not isinstance(m, CONTAINERS) and any(m.children())]
    return any(count > 1 for count in Counter(composite).values())


def _once(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Each parameter only in its first place."""
    seen: set[int] = set()
    for piece in pieces:
        new = [parameter for parameter in piece.parameters if id(parameter) not in seen]
        seen.update(map(id, new))
        if new:
            yield replace(piece, parameters=new)


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and piece.joins(joined[-1]):
            joined[-1] = joined[-1] + piece
        else:
            joined.append(piece)
    return joined


def _output_block(module: nn.Module, blocks: list[list[str]], first: dict[int, str]) -> list[str]:
    outputs = [layer for layer in module.modules() if isinstance(layer, OUTPUTS)]
    if not outputs:
        return blocks[-1]
    own = [first[id(parameter)] for parameter in outputs[-1].parameters()]
    if _has_tied_weight(module, outputs[-1]):
        return own
    return next(block for block in blocks if own[0] in block)


def _has_tied_weight(module: nn.Module, layer: nn.Module) -> bool:
    """Whether another layer has the same matrix."""
    weight = layer._parameters.get("weight")  # None if it is computed
    others = (other for other in module.modules() if other is not layer)
    return weight is not None and any(weight is p for other in others for p in other._parameters.values())


HEAD = re.compile(r"(^|[._])(head|heads|classifier|lm_head|fc|logits|output|predictor)(\.|$)")


def not_taken_over(names: TrainableNames, report: TransferReport) -> set[str]:
    """First names of parameters, and paths of norms without any, that took nothing from a source.

    A norm whose statistics were not taken over is new as a whole: in eval mode it would normalise by initial values.

    Args:
        names: Names of the module.
        report: Report of the transfer into it.
    """
    taken = {tensor.name for tensor in report if tensor.status in TAKEN}
    new = {name for name in names.parameters if taken.isdisjoint(names.in_state_dict([name]))}
    known = {tensor.name for tensor in report if tensor.shape is not None}
    for path, (_, units) in names.norms.items():
        statistics = {f"{path}.{leaf}".lstrip(".") for leaf in STATISTICS} & known
        if statistics and not statistics & taken:
            new.update(units)
    return new


def head_of_new(module: nn.Module, names: TrainableNames, new: Collection[str], usual: Sequence[str]) -> set[str]:
    """Names of the output layer's parameters according to what is new; empty if that tells nothing.

    Args:
        module: Any module.
        names: Its names.
        new: First names of what was not taken over.
        usual: Names of the block that is the head by the order of registration.
    """
    if not new or not set(new).isdisjoint(usual) or any(HEAD.search(name) for name in usual):
        return set()
    first = {id(parameter): name for name, parameter in names.parameters.items()}
    layers = [layer for layer in module.modules() if isinstance(layer, OUTPUTS)]
    gives = any(first.get(id(layer._parameters.get("weight"))) in new for layer in layers)
    return set(new) & set(names.parameters) if gives else set()
