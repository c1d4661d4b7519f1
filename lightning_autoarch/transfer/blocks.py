"""The layers of a module from its input to its output, as layer-wise learning rates and gradual thawing count them.

Order is that of registration, nearly always that of the data. From the root down:

    a Sequential, ModuleList or ModuleDict              each of its elements is looked at
    a module that is an attribute and holds one of them each of its children is looked at, so too of the root
    an element of one of them that is itself a module   one block, unless it holds a stack: two composite modules of one
                                                        class in a Sequential or list, as a whole ResNet does
    everything else                                     one block

Parameters that an opened module has itself (a class token, position embeddings) belong to the first block in it. A
block without a matrix (a norm, a scale) joins the block before it, a first one the block behind it. A tied parameter
belongs to the first of its places. So a ViT is: patches and tokens, each encoder layer (with the last norm), head;
ResNet-18 is: stem, 8 residual blocks, head. The block of the head is put on top, wherever it is registered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from torch import nn
from torch.nn import Parameter

from lightning_autoarch.transfer.patterns import Names

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
OUTPUTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
    found = _with_matrices(list(_once(_opened(_without_wrappers(module)))))
    blocks = [[first[id(parameter)] for parameter in block if id(parameter) in first] for block in found]
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


def _opened(module: nn.Module) -> Iterator[list[Parameter]]:
    """The blocks in a module, its own parameters with the first."""
    own = list(module.parameters(recurse=False))
    listed = isinstance(module, CONTAINERS)
    for child in module.children():
        for block in _opened(child) if _opens(child, listed) else [list(child.parameters())]:
            if block:
                yield own + block
                own = []
    if own:
        yield own


def _opens(module: nn.Module, is_element: bool) -> bool:
    if isinstance(module, CONTAINERS):
        return True
    if hasattr(module, "base_layer"):  # an adapter of peft around one layer
        return False
    inner = [child for child in module.modules() if isinstance(child, CONTAINERS)]
    return any(map(_is_stack, inner)) if is_element else bool(inner)


def _is_stack(container: nn.Module) -> bool:
    """Whether it holds two composite modules of one class."""
    composite = [type(m) for m in container.children() if not isinstance(m, CONTAINERS) and any(m.children())]
    return any(count > 1 for count in Counter(composite).values())


def _once(blocks: Iterator[list[Parameter]]) -> Iterator[list[Parameter]]:
    seen: set[int] = set()
    for block in blocks:
        new = [parameter for parameter in block if id(parameter) not in seen]
        seen.update(map(id, new))
        if new:
            yield new


def _with_matrices(blocks: list[list[Parameter]]) -> list[list[Parameter]]:
    joined: list[list[Parameter]] = []
    for block in blocks:
        if joined and not (_has_matrix(block) and _has_matrix(joined[-1])):
            joined[-1] = joined[-1] + block
        else:
            joined.append(block)
    return joined


def _has_matrix(block: list[Parameter]) -> bool:
    return any(parameter.dim() > 1 for parameter in block)


def _output_block(module: nn.Module, blocks: list[list[str]], first: dict[int, str]) -> list[str]:
    outputs = [layer for layer in module.modules() if isinstance(layer, OUTPUTS)]
    if not outputs:
        return blocks[-1]
    name = first[id(outputs[-1].weight)]
    return next(block for block in blocks if name in block)
