"""Facts of a candidate that are known before training: parameters, FLOPs, layers.

They are counted on the meta device, where nothing is computed and no memory is allocated. A candidate whose forward
depends on values is built once more and run. FLOPs are those of torch's `FlopCounterMode`, two per multiply-add, of one
forward pass of the example (`structure.cost.count_flops`).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.examples import META, WAYS, Arguments, arguments_of_array, moved_to
from lightning_autoarch.search.space import Architecture, architecture_key
from lightning_autoarch.structure.cost import count_flops
from lightning_autoarch.training.data import PREFIX, TrialData, split_architecture
from lightning_autoarch.training.late_layers import is_made_late, prepare_
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.trainer_settings import SILENT

Build = Callable[[], LightningModule]


class ModuleFacts:
    """Facts of architectures, each measured once. Building candidates draws random numbers: callers keep theirs apart.

    Args:
        builder: makes the candidates.
        data: gives the first batch where a module has no `example_input_array`; hooks that create layers see it too.
        flops: measure FLOPs too: `True`, or `None` for "where `example_input_array` makes it possible".
        trainer: arguments of the Trainer that such hooks see.
        completed: adds arguments that follow from others to an architecture.
    """

    def __init__(
        self,
        builder: ModuleBuilder,
        data: TrialData,
        flops: bool | None = None,
        trainer: Mapping[str, Any] | None = None,
        completed: Callable[[Architecture], Architecture] | None = None,
    ) -> None:
        self._builder, self._data, self._flops, self._completed = builder, data, flops, completed
        self._trainer = {**SILENT, "accelerator": "cpu", "devices": 1, **(trainer or {})}
        self._known: dict[str, dict[str, float]] = {}
        self._late: bool | None = None  # whether hooks make layers; known once a candidate has been built
        self._batch: Any = None
        self._arguments_of: Callable[[Any], Arguments] | None = None

    def of(self, architecture: Architecture) -> dict[str, float]:
        """`params`, `layers` (modules without children), a count `layers.Kind` of each kind, and `flops` if measured.

        They are those of the module as it is when training begins, before any pruning.

        Raises:
            SearchError: FLOPs are needed, but no input for `forward` is known.
            Exception: whatever the module's `__init__`, `setup` or `configure_model` raises for an impossible
                architecture.
        """
        module, data = split_architecture(architecture if self._completed is None else self._completed(architecture))
        if self._late is None:
            self._late = is_made_late(self._builder.build(module))
        varied = data if self._late else {}  # of the datamodule, which the hooks may read
        key = architecture_key({**module, **{f"{PREFIX}{name}": value for name, value in varied.items()}})
        if key not in self._known:
            self._known[key] = self._measure(module, self._data.with_parameters(varied))
        return self._known[key]

    def features(self, architecture: Architecture) -> dict[str, float]:
        """The facts as inputs of a surrogate, sizes on a log scale; empty for an architecture that cannot be built."""
        try:
            facts = self.of(architecture)
        except SearchError:
            raise
        except Exception:  # the trial itself will fail and say why
            return {}
        logs = {f"log_{name}": math.log1p(facts[name]) for name in ("params", "flops") if name in facts}
        return {**logs, "layers": facts["layers"]}

    def _measure(self, architecture: Architecture, data: TrialData) -> dict[str, float]:
        build = functools.partial(self._built, architecture, data)
        module = build()
        example = module.example_input_array
        uninitialised = any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters())
        params = None if uninitialised else _count_parameters(module)  # before "meta", which parts tied parameters
        module = module.to("meta")
        facts: dict[str, float] = {}
        if self._flops or uninitialised:
            facts["flops"], module = self._count_flops(build, module, example)
        elif self._flops is None and example is not None:
            facts |= self._flops_if_it_runs(build, module, example)
        kinds = Counter(type(child).__name__ for child in module.modules() if not list(child.children()))
        return {
            "params": _count_parameters(module) if params is None else params,
            "layers": sum(kinds.values()),
            **{f"layers.{kind}": count for kind, count in kinds.items()},
            **facts,
        }

    def _built(self, architecture: Architecture, data: TrialData) -> LightningModule:
        module = self._builder.build(architecture)
        if is_made_late(module):
            prepare_(module, self._trainer, data)
        return module

    def _flops_if_it_runs(self, build: Build, meta: LightningModule, example: Any) -> dict[str, float]:
        """Empty where the example does not fit the module: its parameters are counted all the same."""
        try:
            return {"flops": self._count_flops(build, meta, example)[0]}
        except Exception:  # whatever a forward raises
            return {}

    def _count_flops(self, build: Build, meta: LightningModule, example: Any) -> tuple[int, LightningModule]:
        """FLOPs, and the module that was run, whose lazy layers now have their shapes."""
        meta.eval()
        if example is not None:
            return self._flops_of(build, meta, arguments_of_array(example))
        if self._arguments_of is not None:
            return self._flops_of(build, meta, self._arguments_of(self._first_batch(meta)))
        return self._count_flops_by_trying(build, meta)

    def _flops_of(self, build: Build, meta: LightningModule, arguments: Arguments) -> tuple[int, LightningModule]:
        try:
            args, kwargs = moved_to(arguments, META)
            return count_flops(meta, *args, **kwargs), meta
        except Exception:  # the same as without the meta device; or it looks at values, or fills lazy layers, of which
            # `to("meta")` makes empty ones
            module = build().eval()
            return count_flops(module, *arguments[0], **arguments[1]), module

    def _count_flops_by_trying(self, build: Build, meta: LightningModule) -> tuple[int, LightningModule]:
        """Find how a batch becomes the arguments of `forward`; the first way that works is used from then on."""
        reasons: list[str] = []
        for arguments_of in WAYS:
            try:
                counted = self._flops_of(build, meta, arguments_of(self._first_batch(meta)))
            except Exception as error:  # the next way may fit; all reasons are reported
                reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                continue
            self._arguments_of = arguments_of
            return counted
        raise SearchError(
            "FLOPs cannot be counted: `forward` takes neither the first batch nor its first part "
            f"({reasons[0]}). Set `self.example_input_array` in the module."
        )

    def _first_batch(self, module: LightningModule) -> Any:
        if self._batch is None:
            with self._data.untouched():
                self._batch = next(iter(self._data.train_loader(module)))
        return self._batch


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
