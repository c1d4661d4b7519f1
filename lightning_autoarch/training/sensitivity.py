"""Find out how far each layer can be pruned: prune it alone, to several sparsities, and validate without training.

    change(l, s) = score(module with layer l pruned to sparsity s) - score(module)

(Li et al., 2017, "Pruning filters for efficient ConvNets", section 3.2, arXiv:1608.08710; Han et al., 2015, figure 6.)
Layers whose curve stays flat can be pruned further than those whose curve rises early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError, SearchError, did_you_mean
from lightning_autoarch.core.optional import needed
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.core.rest import detached_copy
from lightning_autoarch.prune.magnitude import magnitude_masks, prune_
from lightning_autoarch.prune.mask_updates import prune_further
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.targets import Targets, examine_targets
from lightning_autoarch.training.data import TrialData, facade
from lightning_autoarch.training.isolation import isolated
from lightning_autoarch.training.trainer_settings import SILENT

if TYPE_CHECKING:
    import pandas

COLUMNS = ("layer", "sparsity", "score", "change")
TRAINER = {**SILENT, "logger": False, "enable_checkpointing": False, "devices": 1}


def sensitivity(
    module: LightningModule,
    datamodule: LightningDataModule | Any,
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    *,
    monitor: str = "val_loss",
    targets: Patterns | None = None,
    exclude: Patterns = (),
    trainer_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> pandas.DataFrame:
    """Validate the module with each target alone pruned to each sparsity, by magnitude.

    Every validation is of a fresh copy with the same random numbers, one more for the dense module: for L targets and S
    sparsities L S + 1 of them. The module, its trainer and the generators of the data stay as they are.

    Args:
        module: trained.
        datamodule: a datamodule (it is prepared and set up here), a validation DataLoader, or None: the module's own.
        sparsities: each in [0, 1].
        monitor: the logged value that is the score.
        targets, exclude: patterns of what is pruned, as in `find_targets`.
        trainer_kwargs: arguments of the Trainer that validates, such as `limit_val_batches` or `accelerator`.
        seed: of each validation.

    Returns:
        A row for each target and sparsity, in their order: `layer` (the weight's name), `sparsity`, `score`, `change`
        (against the dense module). `frame.attrs` has `monitor` and the score of the dense module, `dense`.

    Raises:
        PruneTypeError, PruneValueError: sparsities or patterns are wrong, or a weight is NaN (it is named).
        SearchError: the validation does not log `monitor`.
        MissingPackageError: pandas is not installed.
    """
    pandas = needed("pandas", "A sensitivity table", '"lightning-autoarch[report]"')
    levels = _checked(sparsities)
    chosen = examine_targets(module, targets, exclude).parameters
    for name, weight in chosen.items():
        _check_numbers(name, weight)
    arguments = {**TRAINER, **(trainer_kwargs or {})}
    data = _data_of(datamodule)

    def score(candidate: LightningModule) -> float:
        return _validated(candidate, data, monitor, arguments, seed)

    dense = score(detached_copy(module))
    rows = []
    for name in chosen:
        for sparsity in levels:
            candidate = detached_copy(module)
            _prune_one_(examine_targets(candidate, targets, exclude), name, sparsity)
            value = score(candidate)
            rows.append((name, sparsity, value, value - dense))
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs.update(monitor=monitor, dense=dense)
    return frame


def _prune_one_(found: Targets, name: str, sparsity: float) -> None:
    """Prune a target by magnitude; one that is normalised keeps a weight in each slice."""
    if name not in found.normed:
        prune_([found.parameters[name]], sparsity=sparsity)
        return
    weights = MaskedWeights({name: found.parameters[name]}, normed=found.normed)
    weights.replace(prune_further(weights, sparsity, "layer"))
    weights.apply_()


def _checked(sparsities: Sequence[float]) -> list[float]:
    try:
        levels = [float(sparsity) for sparsity in sparsities]
    except (TypeError, ValueError):
        raise PruneTypeError(f"Expected `sparsities` to be a list of numbers, got {sparsities!r:.80}.") from None
    wrong = [level for level in levels if not 0 <= level <= 1]
    if wrong or not levels:
        got = wrong[0] if wrong else "none"
        raise PruneValueError(f"Expected `sparsities` in [0, 1], at least one, got {got}.")
    return levels


def _check_numbers(name: str, weight: Tensor) -> None:
    """Check the numbers before the first validation."""
    try:
        magnitude_masks([weight], k=0)
    except PruneValueError as error:
        raise PruneValueError(f"`{name}` cannot be pruned: {error}") from error


def _data_of(datamodule: Any) -> TrialData:
    if not isinstance(datamodule, LightningDataModule):
        return TrialData(val=datamodule)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return TrialData(datamodule)


def _validated(
    candidate: LightningModule, data: TrialData, monitor: str, arguments: Mapping[str, Any], seed: int
) -> float:
    """The logged value of one quiet validation."""
    source: dict[str, Any] = {"dataloaders": data.val}
    if data.datamodule is not None:
        source = {"datamodule": facade(data.datamodule)}
    with isolated(seed), data.untouched():
        trainer = Trainer(**arguments)
        trainer.validate(candidate, verbose=False, **source)
    logged = trainer.callback_metrics
    if monitor not in logged:
        names = ", ".join(f"`{name}`" for name in logged) or "nothing"
        hint = did_you_mean(monitor, logged)
        raise SearchError(f"`monitor={monitor!r}` was not logged by the validation, which logged {names}.{hint}")
    return float(logged[monitor])
