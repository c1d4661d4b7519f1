"""The layers of a module from its input to its output, as layer-wise learning rates and gradual thawing count them.

Order is that of registration, nearly always that of the data. From the root down:

    a Sequential, ModuleList or ModuleDict              each of its elements is looked at
    a module that is an attribute and holds one of them each of its children is looked at, so too of the root
    an element of one of them that is itself a module   one block, unless it holds a stack: two composite modules of one
                                                        class in a Sequential or list, as a whole ResNet does
    everything else                                     one block

What cannot be a block alone joins the one before it, or where there is none the one behind: a block without a matrix
(a norm, a scale), and parameters that an opened module has itself (a class token, position embeddings), which are added
to its input. Embeddings side by side (of tokens, of positions) are one block. A tied parameter belongs to the first of
its places. So a ViT is: patches and tokens, each encoder layer (with the last norm), head; ResNet-18 is: stem, 8
residual blocks, head. The block of the head is put on top, wherever it is registered. Where the output layer shares its
matrix with another, as with an embedding, that matrix and the bias are the head; the rest of the other's block stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn
from torch.nn import Parameter
from torch.nn.utils.parametrize import is_parametrized

from lightning_autoarch.transfer.patterns import Names

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
OUTPUTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class _Piece:
    """What is in one block, with what it joins."""

    parameters: list[Parameter]
    stands: bool  # can be a block alone
    embeds: bool = False

    def joins(self, before: _Piece) -> bool:
        return not (self.stands and before.stands) or (self.embeds and before.embeds)

    def __add__(self, behind: _Piece) -> _Piece:
        together = self.parameters + behind.parameters
        return _Piece(together, self.stands or behind.stands, self.embeds and behind.embeds)


def blocks_of(
    module: nn.Module, names: Names, head: Collection[str] = ()
) -> list[list[str]]:  # first names of parameters, from the input to the output; the last block is the head
    """Every parameter in one block.

    Args:
        module: any module.
        names: of it.
        head: names of the output layer's parameters; by default the block in which the last linear layer or convolution
            lies that is registered, or the last block of a module without any.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> blocks_of(net, Names(net))
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
    """The module inside of modules that do no more than hold it."""
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    if len(children) == 1 and not module._parameters and not isinstance(children[0], OUTPUTS):
        return _without_wrappers(children[0])
    return module


def _opened(module: nn.Module) -> Iterator[_Piece]:
    """Its own parameters, and what is in it."""
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
    if hasattr(module, "base_layer") or is_parametrized(module):  # one layer, in an adapter of peft or computed
        return False
    inner = [child for child in module.modules() if isinstance(child, CONTAINERS)]
    return any(map(_is_stack, inner)) if is_element else bool(inner)


def _is_stack(container: nn.Module) -> bool:
    """Whether it holds two composite modules of one class."""
    composite = [type(m) for m in container.children() if not isinstance(m, CONTAINERS) and any(m.children())]
    return any(count > 1 for count in Counter(composite).values())


def _once(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Each parameter in its first place alone."""
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
    """Whether another layer has its matrix too."""
    weight = layer._parameters.get("weight")  # None where it is computed
    others = (other for other in module.modules() if other is not layer)
    return weight is not None and any(weight is p for other in others for p in other._parameters.values())
