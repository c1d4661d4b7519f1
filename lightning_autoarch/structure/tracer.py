"""Run a forward once and pass every operation of it to its rule.

`RULES` maps the name of an ATen operation, without its overload, to the rule that follows channels through it. `QUICK`
holds operations whose result shapes torch computes slowly: for those of batch norm it runs twenty operations.
"""

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
from lightning_autoarch.structure.flow import Call, Flow, OpStep, Product, Rule, place, unknown
from lightning_autoarch.structure.labels import LabelClash
from lightning_autoarch.structure.layout import ChannelLayout
from lightning_autoarch.structure.rules_mixing import MIXING, pointwise
from lightning_autoarch.structure.rules_products import PRODUCTS
from lightning_autoarch.structure.rules_views import MOVES, VIEWS
from lightning_autoarch.structure.scene import REPEATED, reachable_tensors, scene

RULES: dict[str, Rule] = {**VIEWS, **PRODUCTS, **MIXING}


def rule_of(op: torch._ops.OpOverload) -> Rule:
    """The rule of an operation; torch tags those that go element by element."""
    namespace, _, name = op._schema.name.partition("::")
    if namespace != "aten":
        return unknown
    if name in RULES:
        return RULES[name]
    return pointwise if torch.Tag.pointwise in op.tags else unknown


def keeps_source(op: torch._ops.OpOverload) -> bool:
    """Whether the output is still the parameter that went in, seen in another way."""
    return op._schema.name.removeprefix("aten::") in MOVES


def results_of(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operation, or what makes results of the same shapes, dtypes and memory formats from fake tensors."""
    return QUICK.get(op, op)


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *_: float,  # momentum and eps
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = input.new_empty(input.shape[1] if training else 0)
    return torch.empty_like(input), statistics, statistics.new_empty(statistics.shape)


QUICK: dict[torch._ops.OpOverload, Callable[..., Any]] = {torch.ops.aten.native_batch_norm.default: _batch_norm}


Watch = Callable[[OpStep], None]


def run(
    module: nn.Module, example_inputs: object, flow: Flow, *, flipped: bool = False, watch: Watch | None = None
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
        layouts = tuple(ChannelLayout(tuple(x.shape), f, source) for x, f in zip(outputs, factors, strict=True))
        inputs = call.tensors()
        before = tuple(self.flow.of(x) for x in inputs)
        product = self._product(func, given, layouts[0])
        made = [*outputs, *(inputs[:1] if _in_place(func) else [])]  # the output is the first argument, or its fake
        for tensor, layout in zip(made, [*layouts, layouts[0]], strict=False):
            self.flow.set(tensor, layout)
        step = OpStep(self.op, str(self.path), layouts, _numbers(func, bound), before, product)
        self.flow.step(step, inputs, made)
        if self.watch is not None:
            self.watch(step)

    def _product(self, func: torch._ops.OpOverload, given: tuple[Any, Any], output: ChannelLayout) -> Product | None:
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
