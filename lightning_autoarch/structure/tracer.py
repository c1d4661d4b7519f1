"""One run of a forward, every operation of it passed to its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.calls import run_on
from lightning_autoarch.structure.flow import Call, Flow, Product, Step, place
from lightning_autoarch.structure.labels import LabelClash
from lightning_autoarch.structure.layout import Layout
from lightning_autoarch.structure.recurrent import REPEATED
from lightning_autoarch.structure.results import results_of
from lightning_autoarch.structure.rules import keeps_source, rule_of
from lightning_autoarch.structure.scene import reachable_tensors, scene

Watch = Callable[[Step], None]


def run(
    module: nn.Module, example_inputs: Any, flow: Flow, *, flipped: bool = False, watch: Watch | None = None
) -> None:
    """Run the forward once, filling `flow`.

    Args:
        module: whose forward runs.
        example_inputs: as for `trace`.
        flow: is filled.
        flipped: in the other mode, train or eval.
        watch: sees every step, and may raise.

    Raises:
        StructureError: the forward raised, read values of tensors, or needs two different channels to be one.
    """
    tracer = _Tracer(flow, watch)
    try:
        with scene(module, flipped=flipped) as fake, _ModulePath(module) as path:
            tracer.path = path
            given = tree_map_only(Tensor, fake.from_tensor, example_inputs)
            tracer.fake = fake
            with tracer:
                outputs = run_on(module, given)
    except StructureError:
        raise
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise StructureError(
            f"Expected a forward that depends on shapes alone, but {tracer.place} reads values of a tensor ({error})."
        ) from error
    except LabelClash as error:
        raise StructureError(f"{tracer.place} brings different channels together.") from error
    except Exception as error:
        raise StructureError(
            f"Could not follow the forward: {tracer.place} raised {type(error).__name__}: {error}"
        ) from error
    flow.finish(list(reachable_tensors(outputs)))


class _ModulePath:
    """The path of the module whose forward is running."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._names = {id(m): name for name, m in reversed([*root.named_modules(remove_duplicate=False)])}
        self._stack: list[int] = []

    def __enter__(self) -> _ModulePath:
        modules = [m for m in self._root.modules() if not isinstance(m, torch.jit.ScriptModule)]
        self._handles = [m.register_forward_pre_hook(self._enter) for m in modules]
        self._handles += [m.register_forward_hook(self._leave) for m in modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, _: object) -> None:
        self._stack.append(id(module))

    def _leave(self, module: nn.Module, _: object, __: object) -> None:
        while self._stack and self._stack.pop() != id(module):  # those that raised did not leave
            pass

    def __str__(self) -> str:
        return next((self._names[m] for m in reversed(self._stack) if m in self._names), "")


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every ATen operation before the fake tensors do."""

    def __init__(self, flow: Flow, watch: Watch | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow, self.watch = flow, watch
        self.path: object = ""
        self.fake = FakeTensorMode()
        self.op = ""

    @property
    def place(self) -> str:
        """Where it is, or was when something raised."""
        return place(self.op, str(self.path))

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.op = func._schema.name
        given = [self._fake(x) for x in args], {name: self._fake(x) for name, x in (kwargs or {}).items()}
        result = results_of(func)(*given[0], **given[1])  # of fake tensors: real ones are not written to
        outputs = [x for x in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(x, Tensor)]
        if outputs and not self.op.startswith("prim::"):
            self._follow(func, _bound(func, args, kwargs or {}), outputs, (args, kwargs or {}))
        self.op = ""
        return result

    def _fake(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if isinstance(value, FakeTensor) else self.fake.from_tensor(value)
        return type(value)(map(self._fake, value)) if type(value) in (list, tuple) else value

    def _follow(
        self, func: torch._ops.OpOverload, bound: dict[str, Any], outputs: list[Tensor], given: tuple[Any, Any]
    ) -> None:
        call = Call(self.flow, self.op, self.place, bound, outputs)
        self.flow.reached.update(source for x in call.tensors() if (source := self.flow.of(x).source))
        factors = rule_of(func)(call)
        source = self.flow.of(call.tensors()[0]).source if keeps_source(func) else None
        layouts = tuple(Layout(tuple(x.shape), f, source) for x, f in zip(outputs, factors, strict=True))
        inputs = call.tensors()
        before = tuple(self.flow.of(x) for x in inputs)
        product = self._product(func, given, layouts[0])
        made = [*outputs, *(inputs[:1] if _in_place(func) else [])]  # the output is the first argument, or its fake
        for tensor, layout in zip(made, [*layouts, layouts[0]], strict=False):
            self.flow.set(tensor, layout)
        step = Step(self.op, str(self.path), layouts, _numbers(func, bound), before, product)
        self.flow.step(step, inputs, made)
        if self.watch is not None:
            self.watch(step)

    def _product(self, func: torch._ops.OpOverload, given: tuple[Any, Any], output: Layout) -> Product | None:
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return None
        args, kwargs = tree_map_only(Tensor, self.flow.of, given)
        return Product(formula, args, kwargs, output, REPEATED.get())


def _bound(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[i]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _numbers(func: torch._ops.OpOverload, bound: Mapping[str, Any]) -> tuple[float, ...]:
    """Scalars that an operation computes with: floats, integers where it goes element by element, new constants."""
    whole = torch.Tag.pointwise in func.tags
    found = [v for v in bound.values() if type(v) is float or (whole and type(v) is int)]
    constant = bound.get("self")
    if func._schema.name.startswith("aten::lift_fresh") and isinstance(constant, Tensor) and constant.numel() == 1:
        with _disable_current_modes():
            found.append(float(constant) if not isinstance(constant, FakeTensor) else 0.0)
    return tuple(found)


def _in_place(func: torch._ops.OpOverload) -> bool:
    name = func._schema.name
    return name.endswith("_") and not name.endswith("__") and bool(func._schema.arguments)
