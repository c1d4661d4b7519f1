"""What is known while channels are followed through a forward: layouts of tensors, uses of parameters, operations.

A *rule* says, for one ATen operation, which channels have to agree and where they are in its outputs:

    rule(call) -> factors of each output          tracer.RULES: name of the operation -> rule

An operation without a rule fixes every channel that it reads, with its name as the reason: conservative, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_autoarch.structure.labels import Labels, LabelSets, rigid, varying
from lightning_autoarch.structure.layout import ChannelLayout, Factors, fix_all, join, settled

PRODUCER, CONSUMER, ALONG = "producer", "consumer", "along"

# Marks: a norm or mean over the channels (fewer channels change what is left; replicating all equally does not), and
# a sum over them that no parameter scales (replicated channels count twice), or an order that depends on their number.
RESCALED, SUMMED = "rescaled", "summed"


@dataclass(frozen=True)
class Product:
    """A multiplication of tensors as torch's FLOP counter sees it, with layouts instead of tensors."""

    formula: Callable[..., int]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: ChannelLayout
    times: float  # how often it runs: a sequence is followed for two steps only


@dataclass(frozen=True)
class OpStep:
    """One operation as it ran.

    Attributes:
        op: its name.
        module: the path of the module that ran it.
        outputs: their layouts.
        numbers: its scalar arguments; a scale may be computed from sizes.
        inputs: the layouts of its input tensors.
        product: what its FLOPs are counted from; None if it has none.
    """

    op: str
    module: str
    outputs: tuple[ChannelLayout, ...]
    numbers: tuple[float, ...] = ()
    inputs: tuple[ChannelLayout, ...] = ()
    product: Product | None = None

    @property
    def place(self) -> str:
        """Where it ran, for messages."""
        return place(self.op, self.module)


def place(op: str, module: str) -> str:
    """Where an operation ran, for messages; without an operation, the forward of the module.

    >>> place("aten::view", "encoder.0")
    '`view` in `encoder.0`'
    """
    where = f"`{module}`" if module else "the forward of the module itself"
    return f"`{op.removeprefix('aten::')}` in {where}" if op else where


@dataclass
class Flow:
    """What is known so far. Tensors are identified by `id`, and kept alive so that no `id` is reused."""

    sets: LabelSets
    tensors: Mapping[str, tuple[Tensor, tuple[Labels, ...]]]  # parameters and buffers, labels of each dimension
    steps: list[OpStep] = field(default_factory=list)
    roles: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    normed: frozenset[str] = frozenset()  # tensors of weight norms, whose norm is made up for
    rescaled: list[Labels] = field(default_factory=list)  # of each norm or mean over channels
    reached: set[str] = field(default_factory=set)  # parameters and buffers that an operation took
    _marks: list[tuple[int, Labels, str]] = field(default_factory=list)
    _inputs: list[tuple[int, ...]] = field(default_factory=list)  # of each step: the tensors that it took
    _made_by: dict[int, list[int]] = field(default_factory=dict)  # tensor -> the steps that made or wrote it
    _layouts: dict[int, ChannelLayout] = field(default_factory=dict)
    _alive: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, (tensor, labels) in self.tensors.items():
            shape = tuple(tensor.shape)
            factors = tuple(
                row.reshape([-1 if e == d else 1 for e in range(len(shape))])
                for d, row in enumerate(labels)
                if shape[d] > 1
            )
            self.set(tensor, ChannelLayout(shape, factors, name))

    def set(self, tensor: Tensor, layout: ChannelLayout) -> None:
        """Record the layout of a tensor."""
        if id(tensor) not in self._layouts:
            self._alive.append(tensor)
        self._layouts[id(tensor)] = layout

    def of(self, tensor: Tensor) -> ChannelLayout:
        """The layout of a tensor; that of an unknown tensor has no channels."""
        return self._layouts.get(id(tensor)) or ChannelLayout(tuple(tensor.shape))

    def step(self, step: OpStep, inputs: Iterable[Tensor], made: Iterable[Tensor]) -> None:
        """Record an operation."""
        for tensor in made:
            self._made_by.setdefault(id(tensor), []).append(len(self.steps))
        self._inputs.append(tuple(id(tensor) for tensor in inputs))
        self.steps.append(step)

    def mark(self, labels: Labels, mark: str) -> None:
        """Note something about the channels that the current operation reads; see `finish`."""
        self._marks.append((len(self.steps), labels, mark))

    def finish(self, outputs: Sequence[Tensor]) -> None:
        """At the end: what is visible outside is fixed, and marks count where their result reached the outputs.

        Attention computes an average over its heads that few callers read.
        """
        live: set[int] = set()
        waiting = [id(tensor) for tensor in outputs] + [i for i in self._made_by if len(self._made_by[i]) > 1]
        while waiting:
            for step in set(self._made_by.get(waiting.pop(), ())) - live:
                live.add(step)
                waiting += self._inputs[step]
        for step, labels, mark in self._marks:
            if step in live:
                self.sets.mark(labels, mark)
                self.rescaled += [labels] if mark == RESCALED else []
        for tensor in outputs:
            fix_all(self.sets, self.of(tensor).factors, "it is visible at the module's output")

    def use(self, layout: ChannelLayout, factors: Iterable[Labels], role: str) -> None:
        """Note what a parameter is used for in the dimensions that these factors of a view of it stand for."""
        if layout.source is None:
            return
        labels = self.tensors[layout.source][1]
        for factor in factors:
            label = int(factor.flat[0])
            for d, row in enumerate(labels):
                if len(row) and row[0] <= label <= row[-1]:
                    self.roles.setdefault((layout.source, d), set()).add(role)


@dataclass(frozen=True)
class Call:
    """One call of an operation."""

    flow: Flow
    op: str  # "aten::view"
    place: str  # for reasons
    args: Mapping[str, Any]  # by the names of the schema
    outputs: Sequence[Tensor]

    @property
    def sets(self) -> LabelSets:
        """The label sets."""
        return self.flow.sets

    def layout(self, name: str) -> ChannelLayout:
        """Of a tensor argument."""
        return self.flow.of(self.args[name])

    def optional(self, name: str) -> ChannelLayout | None:
        """Of a tensor argument that may be None."""
        value = self.args.get(name)
        return None if value is None else self.flow.of(value)

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, those in lists too."""
        found: list[Tensor] = []
        for value in self.args.values():
            found += [x for x in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(x, Tensor)]
        return found

    def meet(self, layouts: Sequence[ChannelLayout], rank: int) -> Factors:
        """Element by element; parameters among them run along."""
        for layout in layouts:
            self.flow.use(layout, layout.factors, ALONG)
        return join(self.sets, layouts, rank, self.place)

    def fix(self, factors: Sequence[Labels], why: str) -> None:
        """These channels have to stay because of this operation."""
        fix_all(self.sets, factors, f"{why} at {self.place}")

    def whole_over(self, layout: ChannelLayout, dims: Iterable[int], why: str) -> ChannelLayout:
        """The layout after an operation that needs all of `dims`: a channel takes all its places there along.

        A factor that varies nowhere else is fixed.
        """
        over = list(dims)
        whole = (rigid(self.sets, f, over, f"{why} at {self.place}") for f in layout.factors)
        return ChannelLayout(layout.shape, settled(self.sets, list(whole)), layout.source)

    def fixed_over(self, layout: ChannelLayout, dims: Iterable[int], why: str) -> ChannelLayout:
        """The layout without the factors over `dims`, which are fixed."""
        inside = [f for f in layout.factors if set(varying(f)) & set(dims)]
        self.fix(inside, why)
        left = tuple(f for f in layout.factors if all(f is not g for g in inside))
        return ChannelLayout(layout.shape, left, layout.source)


Rule = Callable[[Call], Sequence[Factors]]


def unknown(call: Call) -> Sequence[Factors]:
    """An operation that nothing is known about."""
    for tensor in call.tensors():
        call.fix(call.flow.of(tensor).factors, "an operation that is not followed")
    return [()] * len(call.outputs)


def wildcard(sets: LabelSets, shape: Sequence[int]) -> Factors:
    """Of a tensor whose elements are all alike: each dimension may be any kind of channel."""
    rank = len(shape)
    return tuple(
        sets.fresh(n).reshape([-1 if e == d else 1 for e in range(rank)]) for d, n in enumerate(shape) if n > 1
    )
