"""What is to be copied where, and the report of it, before anything is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError, shown
from lightning_autoarch.transfer.match.coupled import important_channels
from lightning_autoarch.transfer.match.coupling import Coupling, Wanted, couple
from lightning_autoarch.transfer.match.grids import Grids
from lightning_autoarch.transfer.match.identity import ExtraBlock, extra_blocks, identity_values
from lightning_autoarch.transfer.match.names import NameMatch, Shape, compiled, match_names, suggestion
from lightning_autoarch.transfer.match.options import Options
from lightning_autoarch.transfer.match.parametrized import Parametrized, parametrized
from lightning_autoarch.transfer.match.report import TAKEN, TensorReport, TransferReport
from lightning_autoarch.transfer.match.roles import check_classes, roles_of
from lightning_autoarch.transfer.match.shapes import (
    Fit,
    equal,
    mapped,
    repeated,
    sliced,
    sliced_first,
    sliced_parts,
    then_sliced,
)
from lightning_autoarch.transfer.match.spelled import Spelled, spelled
from lightning_autoarch.transfer.match.spellings import plain_name
from lightning_autoarch.transfer.match.stacks import stacks_of
from lightning_autoarch.transfer.match.targets import Target, check_writable, targets_of
from lightning_autoarch.transfer.match.values import check_kind, check_packing, plain, same_numbers, unlike_sparse
from lightning_autoarch.transfer.read.state import StateDict, like
from lightning_autoarch.transfer.write.commit import Write

COUNTER, STATISTICS = "num_batches_tracked", "running_mean"
SUGGESTED = 32  # names for which a near one is looked for


class Plan:
    """Copies that are due, and what can be said of them. See `transfer_weights`."""

    def __init__(self, module: nn.Module, state: StateDict, options: Options) -> None:
        self.module, self.state, self.options = module, state, options
        self.targets = targets_of(module)
        self.computed = {each.name: each for each in parametrized(module)}
        self.shapes = {name: target.shape for name, target in self.targets.items()}
        self.source_shapes = _shapes(state)
        self.names = self._match()
        self.spelled = self._spelled()
        self.state, self.pairs = self.spelled.state, self.spelled.pairs
        self.source_shapes |= _shapes(self.state)
        self._check_pairs()
        self.kept = self._kept()
        self.roles = roles_of(module, self.targets, options.head)
        self.stacks = stacks_of(module)
        self.chosen = self._chosen()
        self.grids = Grids(module, self.options.grid)
        self.coupling = self._couple()
        self.reports: dict[str, TensorReport] = {}
        self.copies: dict[str, Write] = {}
        self._make()

    @property
    def writes(self) -> list[Write]:
        """The copies, none of them done."""
        return list(self.copies.values())

    def report(self) -> TransferReport:
        """What becomes of every tensor."""
        return TransferReport((*self._of_module(), *self._of_source()), self.names.prefix)

    def _make(self) -> None:
        if self.options.classes:
            pairs = {name: self.source_shapes[source] for name, source in self.pairs.items()}
            check_classes(self.options.classes, self.roles.head, pairs, self.shapes)
        for first, names in self._same_memory().items():
            found = [name for name in names if name in self.pairs]
            if found and not self.kept.intersection(names):
                self._check_tied(found)
                self._take(self.targets[first], self.pairs[found[0]])
        for each in self.computed.values():
            if each.name in self.pairs and each.name not in self.kept:
                self._take_computed(each, self.pairs[each.name])
        self.grids.check_used()
        self._drop_counters()
        self._deepen()

    def _match(self) -> NameMatch:
        computed: dict[str, Shape] = dict.fromkeys(self.computed, (0,))
        check_packing(self.source_shapes)
        return match_names(self.source_shapes, {**computed, **self.shapes}, self.options.rules, plain_name)

    def _spelled(self) -> Spelled:
        wanted = [*self.targets, *self.computed]
        return spelled(self.module, self.state, self.names, wanted, self.options.lora_alpha)

    def _check_pairs(self) -> None:
        if not self.pairs:
            first, here = next(iter(self.state), "nothing"), next(iter(self.targets), "nothing")
            raise TransferError(
                f"Expected names that source and module share, got none: `{shown(first)}`, ... there and `{here}`, ... "
                f"here. Give `rules`.{suggestion(first, self.source_shapes.get(first, ()), self.shapes)}"
            )

    def _kept(self) -> set[str]:
        """Names that `reinit` asks to leave alone."""
        kept: set[str] = set()
        for pattern in compiled(self.options.reinit, "reinit"):
            found = {name for name in [*self.targets, *self.computed] if pattern.search(name)}
            if not found:
                raise TransferError(f"Expected each pattern of `reinit` to match a name, {pattern.pattern!r} does not.")
            kept |= found
        for each in self.computed.values():
            kept |= {name for name in self.targets if each.name in kept and name.startswith(f"{each.path}.")}
        return kept

    def _chosen(self) -> dict[str, dict[int, Tensor]]:
        if self.options.on_mismatch != "slice" or not self.options.groups:
            return {}
        return important_channels(self.options.groups, self.pairs, self.state, self.shapes)

    def _couple(self) -> Coupling | None:
        """The graph of coupled channels, where shapes differ."""
        options, widen = self.options, self.options.on_mismatch == "widen"
        found = [(self.targets[name], source) for name, source in self.pairs.items() if name in self.targets]
        differ = any(target.shape != self.source_shapes[source] for target, source in found)
        if options.example_inputs is None or not (widen or options.on_mismatch == "slice") or not differ:
            return None
        sources = {target.tied_to or target.name: source for target, source in reversed(found)}
        wanted = Wanted(widen, strict=widen and not options.approximate)
        return couple(
            self.module, options.example_inputs, sources, self.state, self.source_shapes, self.targets, wanted
        )

    def _same_memory(self) -> dict[str, list[str]]:
        """First name -> all names of that memory."""
        names: dict[str, list[str]] = {}
        for target in self.targets.values():
            names.setdefault(target.tied_to or target.name, []).append(target.name)
        return names

    def _check_tied(self, names: list[str]) -> None:
        first = self.pairs[names[0]]
        for name in names[1:]:
            other = self.pairs[name]
            if not same_numbers(self.state[first], self.state[other]):
                raise TransferError(
                    f"Expected one tensor for `{shown(names[0])}` and `{shown(name)}`, which are tied, got "
                    f"different ones: `{shown(first)}` and `{shown(other)}`. Leave one out by a rule."
                )

    def _take(self, target: Target, source: str) -> None:
        check_writable(target)
        if target.tensor.layout is not torch.strided:
            self._take_sparse(target, source)
            return
        fit = self._fit(target, source)
        if fit.status == "skipped" and self.options.on_mismatch == "error":
            raise TransferError(f"Expected `{target.name}` to fit, got {fit.reason}; skip, slice or reinit it.")
        if fit.make is not None:
            value = fit.make(plain(source, self._read(source), target.tensor, self.state))
            self.copies[target.name] = Write(fit.destination(target.tensor), value)
        said = "; ".join(filter(None, (self.spelled.reasons.get(target.name, ""), fit.reason)))
        self._note(target, fit.status, said, source, fit.taken)

    def _take_sparse(self, target: Target, source: str) -> None:
        """A sparse tensor, such as the adjacency of a graph, is taken over as it is, and never made dense."""
        value = self._read(source)
        problem = unlike_sparse(value, target.tensor)
        if problem and self.options.on_mismatch == "error":
            raise TransferError(f"Expected `{target.name}` to fit, got {problem}; skip or reinit it.")
        if not problem:
            self.copies[target.name] = Write(target.tensor, value)
        self._note(target, "skipped" if problem else "loaded", problem, source, 0 if problem else target.numel)

    def _read(self, source: str) -> Tensor:
        tensor = self.state[source]
        if tuple(tensor.shape) != self.source_shapes[source] or tensor.is_meta:
            raise TransferError(
                f"Expected `{shown(source)}` of shape {self.source_shapes[source]} as the source says, got "
                f"{tuple(tensor.shape)} on {tensor.device}."
            )
        return tensor

    def _fit(self, target: Target, source: str) -> Fit:
        old, new = self.source_shapes[source], target.shape
        is_head = target.name in self.roles.head
        wrong = check_kind(source, like(self.state, source), target.tensor, self.state)
        if wrong:
            return Fit("skipped", wrong)
        if is_head and self.options.classes:
            return mapped(self.options.classes, old, target.tensor)
        if self.coupling is not None and not (is_head and old[:1] != new[:1]):
            fit = self.coupling.fit(target, old, partial(self._adapted, target, old))
            if fit is not None:
                return fit
        fit = self._adapted(target, old, new)
        if fit is not None and (self.options.on_mismatch != "error" or old == new):
            return fit
        if old == new:
            return replace(equal(new), status="renamed") if target.name in self.names.by_rule else equal(new)
        if not target.tensor.is_floating_point() and not target.tensor.is_complex():
            return Fit("skipped", f"{old} in the source, {new} here, of whole numbers, which belong to a size")
        if self.options.on_mismatch not in ("slice", "widen"):
            return Fit("skipped", f"{old} in the source, {new} here")
        if is_head and old[:1] != new[:1]:
            return Fit("initialised", f"output layer, {old} in the source, {new} here")
        if target.name in self.stacks and target.name not in self.chosen:
            return sliced_parts(old, new, self.stacks[target.name])
        fit = self._adapted(target, old, (*new[:-1], *old[-1:]))
        if fit is not None:
            return then_sliced(fit, (*new[:-1], *old[-1:]), new)
        cut = sliced_first if target.name == self.roles.first else sliced
        return cut(old, new, self.chosen.get(target.name))

    def _adapted(self, target: Target, old: Shape, new: Shape) -> Fit | None:
        """What is right for a tensor whose dimensions mean positions or input channels; None for any other."""
        fit = repeated(old, new) if target.name == self.roles.first and old != new else None
        return fit or self.grids.fit(target, old, new)

    def _take_computed(self, each: Parametrized, source: str) -> None:
        parts = {name: target for name, target in self.targets.items() if name.startswith(f"{each.path}.")}
        if any(name in self.pairs for name in parts):
            return  # the source has it parametrised too
        weight = plain(source, self._read(source), next(iter(parts.values())).tensor, self.state)
        values, reason = each.values(weight)
        if not values and self.options.on_mismatch == "error":
            raise TransferError(f"Expected `{each.name}` to fit: {reason}.")
        for name, target in parts.items():
            check_writable(target)
            if values:
                self.copies[name] = Write(target.tensor, values[name])
            self._note(target, "loaded" if values else "skipped", reason, source, target.numel if values else 0)

    def _note(self, target: Target, status: str, reason: str, source: str | None = None, taken: int = 0) -> None:
        self.reports[target.name] = TensorReport(
            target.name, status, reason, source, target.shape,
            None if source is None else self.source_shapes[source], target.is_parameter, target.numel, taken,
        )  # fmt: skip

    def _drop_counters(self) -> None:
        """A count of batches says nothing about statistics that were not taken over."""
        for name in [name for name in self.copies if name.endswith(COUNTER)]:
            statistics = self.reports.get(name.removesuffix(COUNTER) + STATISTICS)
            if statistics is not None and statistics.status not in TAKEN:
                del self.copies[name]
                self._note(self.targets[name], "skipped", "its statistics did not fit", self.reports[name].source)

    def _deepen(self) -> None:
        found = {name for name, report in self.reports.items() if report.status in TAKEN}
        missing = set(self.targets) - set(self.pairs) - self.kept - set(self.reports)
        for extra in extra_blocks(self.module, set(self.targets), missing, found):
            self._add_block(extra)

    def _add_block(self, extra: ExtraBlock) -> None:
        values = identity_values(extra)
        reason = "of a block that the source has not" + ("" if values else ", and that is no identity")
        for target in [each for each in self.targets.values() if each.name.startswith(f"{extra.path}.")]:
            value = (values or {}).get(target.name.removeprefix(f"{extra.path}."))
            if value is not None:
                self.copies[target.name] = Write(target.tensor, value)
            self._note(target, "initialised" if value is None else "identity", reason)

    def _of_module(self) -> Iterator[TensorReport]:
        left = self._left()
        for number, target in enumerate(self.targets.values()):
            known = self.reports.get(target.tied_to or target.name)
            if known is not None and target.tied_to:
                source = self.pairs.get(target.name, known.source)
                yield replace(
                    known, name=target.name, source=source, reason=f"tied to `{known.name}`", numel=0, taken=0
                )
            elif known is not None:
                yield known
            else:
                status = "initialised" if target.name in self.kept else "missing"
                near = self._near(target, left) if number < SUGGESTED and status == "missing" else ""
                yield TensorReport(
                    target.name, status, "as `reinit` asks" if status == "initialised" else near.strip(),
                    None, target.shape, None, target.is_parameter, target.numel,
                )  # fmt: skip

    def _of_source(self) -> Iterator[TensorReport]:
        missing = {name: shape for name, shape in self.shapes.items() if name not in self.reports}
        for number, (name, shape) in enumerate(self._left().items()):
            reason = suggestion(name, shape, missing).strip() if number < SUGGESTED else ""
            if name in self.spelled.left_out:
                reason = "the module's own loading hooks leave it out"
            elif name in self.names.renamed:
                reason = f"`{shown(self.names.renamed[name])}` by a rule, which is no name here"
            yield TensorReport(name, "unexpected", reason, name, None, shape)

    def _near(self, target: Target, left: dict[str, Shape]) -> str:
        made = self.names.renamed.get(target.name)
        if made is not None:
            return f"a rule makes `{shown(made)}` of it in the source"
        return suggestion(target.name, target.shape, left)

    def _left(self) -> dict[str, Shape]:
        """What of the source has found no place."""
        used = {*self.pairs.values(), *self.spelled.used}
        return {name: shape for name, shape in self.source_shapes.items() if name not in used}


def _shapes(state: StateDict) -> dict[str, Shape]:
    return {name: tuple(like(state, name).shape) for name in state}
