"""What happens to each tensor of a module: the second stage of a transfer. Values are computed, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError, shown
from lightning_autoarch.transfer.match.axes import important_channels
from lightning_autoarch.transfer.match.identity import extra_blocks, identity_values
from lightning_autoarch.transfer.match.module_tensors import (
    ModuleTensor,
    Parts,
    Roles,
    check_classes,
    check_writable,
    roles_of,
    stacks_of,
)
from lightning_autoarch.transfer.match.pairing import Pairing
from lightning_autoarch.transfer.match.positions import PositionEmbeddings
from lightning_autoarch.transfer.match.shapes import (
    ShapeFit,
    equal,
    mapped,
    repeated,
    sliced,
    sliced_first,
    sliced_parts,
    then_sliced,
)
from lightning_autoarch.transfer.match.spellings import Parametrized
from lightning_autoarch.transfer.match.values import check_kind, plain, same_numbers, unlike_sparse
from lightning_autoarch.transfer.matching import TransferOptions
from lightning_autoarch.transfer.read.state_dicts import Shape, like
from lightning_autoarch.transfer.transfer_report import TAKEN, TensorReport
from lightning_autoarch.transfer.write.commit import Write

if TYPE_CHECKING:
    from lightning_autoarch.transfer.match.coupling import Coupling

COUNTER, STATISTICS = "num_batches_tracked", "running_mean"


@dataclass(frozen=True)
class Decision:
    """What happens to one tensor of the module; `write` is None where it keeps its values."""

    report: TensorReport
    write: Write | None = None


@dataclass(frozen=True)
class Fitter:
    """Finds how a tensor of the source fits its tensor of the module.

    Attributes:
        pairing: The first stage's result.
        options: The user's.
        roles: The first layer and the output layer of the module.
        stacks: Tensors of the module that hold several matrices.
        chosen: Name in the module -> dimension -> indices of the source to keep.
        positions: The position embeddings.
        coupling: The graph of coupled channels; None where it is not needed.
    """

    pairing: Pairing
    options: TransferOptions
    roles: Roles
    stacks: Mapping[str, Parts]
    chosen: Mapping[str, Mapping[int, Tensor]]
    positions: PositionEmbeddings
    coupling: Coupling | None

    def fit(self, target: ModuleTensor, source: str) -> ShapeFit:
        """How the tensor `source` of the source becomes the value of `target`.

        Raises:
            TransferError: "widen" cannot keep the function, or the tensor holds no numbers.
        """
        state, classes = self.pairing.source.state, self.options.matching.classes
        old, new = self.pairing.shapes[source], target.shape
        is_head = target.name in self.roles.head
        wrong = check_kind(source, like(state, source), target.tensor, state)
        if wrong:
            return ShapeFit("skipped", wrong)
        if is_head and classes:
            return mapped(classes, old, target.tensor)
        if self.coupling is not None and not (is_head and old[:1] != new[:1]):
            fit = self.coupling.fit(target, old, partial(self._adapted, target, old))
            if fit is not None:
                return fit
        fit = self._adapted(target, old, new)
        if fit is not None and (self.options.on_mismatch != "error" or old == new):
            return fit
        if old == new:
            by_rule = target.name in self.pairing.names.by_rule
            return replace(equal(new), status="renamed") if by_rule else equal(new)
        return self._of_other_shape(target, old, new)

    def _of_other_shape(self, target: ModuleTensor, old: Shape, new: Shape) -> ShapeFit:
        if not target.tensor.is_floating_point() and not target.tensor.is_complex():
            return ShapeFit("skipped", f"{old} in the source, {new} in the module, of integers that depend on the size")
        if self.options.on_mismatch not in ("slice", "widen"):
            return ShapeFit("skipped", f"{old} in the source, {new} in the module")
        if target.name in self.roles.head and old[:1] != new[:1]:
            return ShapeFit("initialised", f"output layer, {old} in the source, {new} in the module")
        if target.name in self.stacks and target.name not in self.chosen:
            return sliced_parts(old, new, self.stacks[target.name])
        made = (*new[:-1], *old[-1:])
        fit = self._adapted(target, old, made)
        if fit is not None:
            return then_sliced(fit, made, new)
        cut = sliced_first if target.name == self.roles.first else sliced
        return cut(old, new, self.chosen.get(target.name))

    def _adapted(self, target: ModuleTensor, old: Shape, new: Shape) -> ShapeFit | None:
        """How positions or input channels are adapted; None for a tensor whose dimensions mean neither."""
        fit = repeated(old, new) if target.name == self.roles.first and old != new else None
        return fit or self.positions.fit(target, old, new)


def fitter_of(module: nn.Module, pairing: Pairing, options: TransferOptions) -> Fitter:
    """Look at the module once for all of its tensors.

    Raises:
        TransferError: `head` or `groups` name nothing of the module, or `classes` rows that do not exist.
        StructureError: The forward cannot be followed.
    """
    roles = roles_of(module, pairing.targets, options.head)
    matching, shapes = options.matching, pairing.target_shapes()
    chosen: Mapping[str, Mapping[int, Tensor]] = {}
    if options.on_mismatch == "slice" and matching.groups:
        chosen = important_channels(matching.groups, pairing.pairs, pairing.source.state, shapes)
    positions = PositionEmbeddings(module, matching.grids)
    coupling = _coupling(module, pairing, options)
    if matching.classes:
        found = {name: pairing.shapes[source] for name, source in pairing.pairs.items()}
        check_classes(matching.classes, roles.head, found, shapes)
    return Fitter(pairing, options, roles, stacks_of(module), chosen, positions, coupling)


def decide(module: nn.Module, fitter: Fitter) -> dict[str, Decision]:
    """What happens to each tensor that is paired, or in a block that the source does not have.

    Raises:
        TransferError: A mismatch with "error", tied weights of which the source has different ones, a grid that no
            tensor has, numbers that do not fit, or a function that "widen" cannot keep.
    """
    pairing = fitter.pairing
    decided: dict[str, Decision] = {}
    for target, names in pairing.by_memory():
        found = [name for name in names if name in pairing.pairs]
        if found and not pairing.kept.intersection(names):
            _check_tied(pairing, found)
            decided[target.name] = _paired(fitter, target, pairing.pairs[found[0]])
    for computed in pairing.computed.values():
        if computed.name in pairing.pairs and computed.name not in pairing.kept:
            decided |= _parametrised(fitter, computed, pairing.pairs[computed.name])
    fitter.positions.check_used()
    decided |= _stale_counters(pairing, decided)
    return decided | _new_blocks(module, pairing, decided)


def _coupling(module: nn.Module, pairing: Pairing, options: TransferOptions) -> Coupling | None:
    """The graph of coupled channels, where it is asked for and shapes differ."""
    inputs = options.matching.example_inputs
    found = [(pairing.targets[name], source) for name, source in pairing.pairs.items() if name in pairing.targets]
    differ = any(target.shape != pairing.shapes[source] for target, source in found)
    if inputs is None or not (options.widens or options.on_mismatch == "slice") or not differ:
        return None
    from lightning_autoarch.transfer.match.coupling import Wanted, couple  # brings the whole graph of channels

    wanted = Wanted(options.widens, strict=options.widens and not options.matching.approximate)
    sources = {target.tied_to or target.name: source for target, source in reversed(found)}
    return couple(module, inputs, pairing, sources, wanted)


def _check_tied(pairing: Pairing, names: list[str]) -> None:
    state, first = pairing.source.state, pairing.pairs[names[0]]
    for name in names[1:]:
        other = pairing.pairs[name]
        if not same_numbers(state[first], state[other]):
            raise TransferError(
                f"Expected one tensor for `{shown(names[0])}` and `{shown(name)}`, which are tied, got different "
                f"ones: `{shown(first)}` and `{shown(other)}`. Exclude one of them by a rule."
            )


def _paired(fitter: Fitter, target: ModuleTensor, source: str) -> Decision:
    check_writable(target)
    if target.tensor.layout is not torch.strided:
        return _sparse(fitter, target, source)
    pairing, fit = fitter.pairing, fitter.fit(target, source)
    if fit.status == "skipped" and fitter.options.on_mismatch == "error":
        raise TransferError(f"Expected `{target.name}` to fit, got {fit.reason}; skip, slice or reinit it.")
    write = None
    if fit.make is not None:
        value = fit.make(plain(source, _read(pairing, source), target.tensor, pairing.source.state))
        write = Write(fit.destination(target.tensor), value)
    reason = "; ".join(filter(None, (pairing.source.reasons.get(target.name, ""), fit.reason)))
    return Decision(_report(pairing, target, fit.status, reason, source, fit.taken), write)


def _sparse(fitter: Fitter, target: ModuleTensor, source: str) -> Decision:
    """A sparse tensor, such as the adjacency of a graph, is copied as it is and never made dense."""
    value = _read(fitter.pairing, source)
    problem = unlike_sparse(value, target.tensor)
    if problem and fitter.options.on_mismatch == "error":
        raise TransferError(f"Expected `{target.name}` to fit, got {problem}; skip or reinit it.")
    if problem:
        return Decision(_report(fitter.pairing, target, "skipped", problem, source))
    return Decision(_report(fitter.pairing, target, "loaded", "", source, target.numel), Write(target.tensor, value))


def _parametrised(fitter: Fitter, computed: Parametrized, source: str) -> dict[str, Decision]:
    """The tensors that a parametrised one is computed from, where the source has only its value."""
    pairing = fitter.pairing
    parts = {name: target for name, target in pairing.targets.items() if name.startswith(f"{computed.path}.")}
    if any(name in pairing.pairs for name in parts):
        return {}  # the source has the parametrised spelling too
    weight = plain(source, _read(pairing, source), next(iter(parts.values())).tensor, pairing.source.state)
    values, reason = computed.values(weight)
    if not values and fitter.options.on_mismatch == "error":
        raise TransferError(f"Expected `{computed.name}` to fit: {reason}.")
    decided = {}
    for name, target in parts.items():
        check_writable(target)
        status, taken = ("loaded", target.numel) if values else ("skipped", 0)
        write = Write(target.tensor, values[name]) if values else None
        decided[name] = Decision(_report(pairing, target, status, reason, source, taken), write)
    return decided


def _stale_counters(pairing: Pairing, decided: Mapping[str, Decision]) -> dict[str, Decision]:
    """Counters of batches are not copied where the running statistics beside them are not."""
    found = {}
    for name, decision in decided.items():
        statistics = decided.get(name.removesuffix(COUNTER) + STATISTICS) if name.endswith(COUNTER) else None
        if decision.write is not None and statistics is not None and statistics.report.status not in TAKEN:
            source = decision.report.source
            found[name] = Decision(
                _report(pairing, pairing.targets[name], "skipped", "its statistics did not fit", source)
            )
    return found


def _new_blocks(module: nn.Module, pairing: Pairing, decided: Mapping[str, Decision]) -> dict[str, Decision]:
    """Blocks that the source does not have become the identity where that is exact."""
    found = {name for name, decision in decided.items() if decision.report.status in TAKEN}
    missing = set(pairing.targets) - set(pairing.pairs) - pairing.kept - set(decided)
    new: dict[str, Decision] = {}
    for extra in extra_blocks(module, set(pairing.targets), missing, found):
        values = identity_values(extra)
        reason = "of a block that the source does not have" + ("" if values else ", and that is not the identity")
        for name, target in pairing.targets.items():
            if name.startswith(f"{extra.path}."):
                value = (values or {}).get(name.removeprefix(f"{extra.path}."))
                status, write = ("initialised", None) if value is None else ("identity", Write(target.tensor, value))
                new[name] = Decision(_report(pairing, target, status, reason), write)
    return new


def _read(pairing: Pairing, source: str) -> Tensor:
    tensor, shape = pairing.source.state[source], pairing.shapes[source]
    if tuple(tensor.shape) != shape or tensor.is_meta:
        raise TransferError(
            f"Expected `{shown(source)}` of shape {shape}, as the source declares, got {tuple(tensor.shape)} on "
            f"{tensor.device}."
        )
    return tensor


def _report(
    pairing: Pairing, target: ModuleTensor, status: str, reason: str, source: str | None = None, taken: int = 0
) -> TensorReport:
    return TensorReport(
        target.name, status, reason, source, target.shape,
        None if source is None else pairing.shapes[source], target.is_parameter, target.numel, taken,
    )  # fmt: skip


def writes_of(decided: Mapping[str, Decision]) -> Iterator[Write]:
    """The copies to make."""
    return (decision.write for decision in decided.values() if decision.write is not None)
