"""The report of a transfer: the third stage, from what was paired and decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lightning_autoarch.core.errors import shown
from lightning_autoarch.transfer.match.decide import Decision
from lightning_autoarch.transfer.match.module_tensors import ModuleTensor
from lightning_autoarch.transfer.match.name_matching import suggestion
from lightning_autoarch.transfer.match.pairing import Pairing
from lightning_autoarch.transfer.read.state_dicts import Shape
from lightning_autoarch.transfer.transfer_report import TensorReport, TransferReport

SUGGESTED = 32  # names for which a similar one is looked for


def summarise(pairing: Pairing, decided: Mapping[str, Decision]) -> TransferReport:
    """What happens to every tensor of the module, and which ones of the source have no place in it."""
    return TransferReport((*_of_module(pairing, decided), *_of_source(pairing, decided)), pairing.names.prefix)


def _of_module(pairing: Pairing, decided: Mapping[str, Decision]) -> Iterator[TensorReport]:
    left = pairing.unplaced()
    for number, target in enumerate(pairing.targets.values()):
        decision = decided.get(target.tied_to or target.name)
        if decision is None:
            yield _untouched(pairing, target, left if number < SUGGESTED else None)
        elif target.tied_to:
            known = decision.report
            source, reason = pairing.pairs.get(target.name, known.source), f"tied to `{known.name}`"
            yield replace(known, name=target.name, source=source, reason=reason, numel=0, taken=0)
        else:
            yield decision.report


def _untouched(pairing: Pairing, target: ModuleTensor, left: Mapping[str, Shape] | None) -> TensorReport:
    """A tensor that the source does not have, or that `reinit` excludes."""
    status, reason = "missing", ""
    if target.name in pairing.kept:
        status, reason = "initialised", "excluded by `reinit`"
    elif left is not None and (made := pairing.names.renamed.get(target.name)) is not None:
        reason = f"a rule renames it to `{shown(made)}` in the source"
    elif left is not None:
        reason = suggestion(target.name, target.shape, left).strip()
    return TensorReport(target.name, status, reason, None, target.shape, None, target.is_parameter, target.numel)


def _of_source(pairing: Pairing, decided: Mapping[str, Decision]) -> Iterator[TensorReport]:
    missing = {name: shape for name, shape in pairing.target_shapes().items() if name not in decided}
    for number, (name, shape) in enumerate(pairing.unplaced().items()):
        reason = suggestion(name, shape, missing).strip() if number < SUGGESTED else ""
        if name in pairing.source.left_out:
            reason = "the module's own loading hooks drop it"
        elif name in pairing.names.renamed:
            reason = f"a rule renames it to `{shown(pairing.names.renamed[name])}`, which the module does not have"
        yield TensorReport(name, "unexpected", reason, name, None, shape)
