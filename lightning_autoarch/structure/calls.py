"""Which calls a training step makes of a module, where its `forward` alone does not tell.

A step may flatten a batch before `forward`, call `encoder` and `decoder` apart, or have its net in `self.model` and no
`forward` at all. Then the outermost calls that it makes are recorded and followed one by one. What happens
between two calls is not seen, so the results of each keep their channels: only those inside of a call may change.

    step ─► CallRecorder ─► Calls ─► followable ─► trace, remove_channels_    as `example_inputs`
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.core.examples import arguments_of
from lightning_autoarch.core.rest import left_unchanged

MOST_CALLS = 8  # of one submodule, with arguments of different shapes


class ModuleCall(NamedTuple):
    """One call of a submodule; a pytree, so that its tensors can be moved.

    Attributes:
        path: of the submodule; "" for the module itself.
        args: positional arguments.
        kwargs: keyword arguments.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Calls(NamedTuple):
    """Accepted wherever `example_inputs` are: instead of `forward`, these submodules run one after the other."""

    calls: tuple[ModuleCall, ...]


def run_on(module: nn.Module, example_inputs: object) -> Any:
    """Call a module with a tensor (the one argument), a tuple or list (positional ones), a dict (keywords) or `Calls`.

    Returns:
        What `forward` returns; for `Calls`, the list of results.
    """
    if isinstance(example_inputs, Calls):
        return [module.get_submodule(path)(*args, **kwargs) for path, args, kwargs in example_inputs.calls]
    args, kwargs = arguments_of(example_inputs)
    return module(*args, **kwargs)


def rehearse(module: nn.Module, example_inputs: object) -> None:
    """Run the forward with its real kernels, fused ones included; module, inputs and generators are left unchanged.

    Raises:
        StructureError: the forward raised.
    """
    given = tree_map_only(Tensor, torch.clone, example_inputs)
    with left_unchanged(module), torch.no_grad():
        try:
            run_on(module, given)
        except Exception as error:
            raise StructureError(f"The forward of the resized module raised {type(error).__name__}: {error}") from error


class CallRecorder:
    """Context manager that records the outermost calls of submodules; the module can be used as usual.

    Calls of modules without parameters and of those for which `skip` returns True are not recorded. Neither are calls
    in which nothing is trained (of a teacher, a target network), unless `still_too`.

    Args:
        module: whose submodules are watched, and itself.
        skip: modules whose calls and parts are not recorded, such as metrics.
        still_too: also record calls in which nothing is trained.
        inside: path of a submodule; instead of its call, those that it makes are recorded.

    Attributes:
        still: paths of submodules that ran, but were not trained in any call.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        skip: Callable[[nn.Module], bool] = lambda _: False,
        still_too: bool = False,
        inside: str | None = None,
    ) -> None:
        self._module, self._skip, self._still_too, self._inside = module, skip, still_too, inside
        self._names = {id(m): name for name, m in reversed([*module.named_modules(remove_duplicate=False)])}
        self._found: dict[tuple[object, ...], ModuleCall] = {}
        self._learning: dict[str, bool] = {}
        self._running: int | None = None  # the outermost module that runs
        self._handles: list[Any] = []

    @property
    def still(self) -> tuple[str, ...]:
        """Paths of submodules that ran, but were never trained."""
        return tuple(path for path, learns in self._learning.items() if not learns)

    @property
    def calls(self) -> Calls:
        """The distinct calls, in the order of their first appearance."""
        found = self._found.values()
        return Calls(tuple(call for call in found if self._still_too or self._learning[call.path]))

    @property
    def is_on(self) -> bool:
        """Whether it is recording."""
        return bool(self._handles)

    def __deepcopy__(self, memo: object) -> CallRecorder:
        """The hooks of a copy of the module record nothing."""
        return CallRecorder(nn.Module())

    def __enter__(self) -> CallRecorder:
        skipped = {id(part) for module in self._module.modules() if self._skip(module) for part in module.modules()}
        for module in self._module.modules():
            watched = self._names[id(module)] != self._inside and not isinstance(module, torch.jit.ScriptModule)
            if watched and id(module) not in skipped and any(True for _ in module.parameters()):
                self._handles += [
                    module.register_forward_pre_hook(self._begin, with_kwargs=True),
                    module.register_forward_hook(self._end, always_call=True),
                ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A strategy or the compiler may have put a step in the place of `forward`, which then is no outermost call.
        path = self._names.get(id(module))  # None in a copy
        if path is None or self._running is not None or "forward" in vars(module):
            return
        self._running = id(module)
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
        self._learning[path] = self._learning.get(path, False) or learns
        key = (path, *_shape_of((args, kwargs)))
        if key not in self._found and sum(call.path == path for call in self._found.values()) < MOST_CALLS:
            self._found[key] = tree_map_only(Tensor, Tensor.detach, ModuleCall(path, args, kwargs))

    def _end(self, module: nn.Module, _: object, __: object) -> None:
        if self._running == id(module):
            self._running = None


def _shape_of(value: Any) -> tuple[object, ...]:
    """The structure and the shapes of the tensors, which are equal for calls that do the same."""
    leaves, structure = tree_flatten(value)
    return (str(structure), *(_shape_of_leaf(leaf) for leaf in leaves))


def _shape_of_leaf(leaf: Any) -> object:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return leaf if isinstance(leaf, (bool, int, str, type(None))) else type(leaf)
