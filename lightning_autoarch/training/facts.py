"""What a candidate shows before training: parameters, FLOPs, layers; and the limits set on them.

Counted on the meta device, where nothing is computed and no memory is taken; a candidate whose forward looks at values
is built once more and run. FLOPs are those of torch's `FlopCounterMode`: two per multiply-add, of one forward pass of
the example (`prune.cost.count_flops`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_autoarch.errors import SearchError
from lightning_autoarch.prune.cost import count_flops, inputs_on_meta
from lightning_autoarch.search.space import Architecture, architecture_key
from lightning_autoarch.training.data import TrialData, split_architecture
from lightning_autoarch.training.forward import WAYS, Arguments, call_of_example
from lightning_autoarch.training.module import ModuleBuilder

Constraint = Callable[[Architecture], bool]
Check = Callable[[Architecture], str | None]


class Facts:
    """Facts of architectures, each measured once. Building candidates draws random numbers: callers keep theirs apart.

    Args:
        builder: makes the candidates.
        data: gives the first batch where a module has no `example_input_array`.
        flops: measure FLOPs too: `True`, or `None` for "where `example_input_array` makes it possible".
    """

    def __init__(self, builder: ModuleBuilder, data: TrialData, flops: bool | None = None) -> None:
        self._builder, self._data, self._flops = builder, data, flops
        self._known: dict[str, dict[str, float]] = {}
        self._batch: Any = None
        self._arguments_of: Callable[[Any], Arguments] | None = None

    def of(self, architecture: Architecture) -> dict[str, float]:
        """`params`, `layers` (modules without children), a count `layers.Kind` of each kind, and `flops` if measured.

        Of the dense module, whatever will be pruned.

        Raises:
            SearchError: FLOPs are needed, but no input for `forward` is known.
            Exception: whatever the module's `__init__` raises for an impossible architecture.
        """
        module = split_architecture(architecture)[0]
        key = architecture_key(module)
        if key not in self._known:
            self._known[key] = self._measure(module)
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

    def _measure(self, architecture: Architecture) -> dict[str, float]:
        module = self._builder.build(architecture)
        module.configure_model()
        example = module.example_input_array
        uninitialised = any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters())
        params = None if uninitialised else _count_parameters(module)  # before "meta", which parts tied parameters
        module = module.to("meta")
        facts: dict[str, float] = {}
        if self._flops or uninitialised:
            facts["flops"] = self._count_flops(architecture, module, example)
        elif self._flops is None and example is not None:
            facts |= self._flops_if_it_runs(architecture, module, example)
        kinds = Counter(type(child).__name__ for child in module.modules() if not list(child.children()))
        return {
            "params": _count_parameters(module) if params is None else params,
            "layers": sum(kinds.values()),
            **{f"layers.{kind}": count for kind, count in kinds.items()},
            **facts,
        }

    def _flops_if_it_runs(self, architecture: Architecture, meta: LightningModule, example: Any) -> dict[str, float]:
        """Nothing where the example does not fit: that is no reason not to know the parameters."""
        try:
            return {"flops": self._count_flops(architecture, meta, example)}
        except Exception:  # whatever a forward raises
            return {}

    def _count_flops(self, architecture: Architecture, meta: LightningModule, example: Any) -> int:
        meta.eval()
        if example is not None:
            return self._flops_of(architecture, meta, call_of_example(example))
        if self._arguments_of is not None:
            return self._flops_of(architecture, meta, self._arguments_of(self._first_batch(meta)))
        return self._count_flops_by_trying(architecture, meta)

    def _flops_of(self, architecture: Architecture, meta: LightningModule, arguments: Arguments) -> int:
        try:
            args, kwargs = inputs_on_meta(arguments)
            return count_flops(meta, *args, **kwargs)
        except RuntimeError:  # the same as without the meta device, or it looks at values, which are not there
            module = self._builder.build(architecture)
            module.configure_model()
            return count_flops(module.eval(), *arguments[0], **arguments[1])

    def _count_flops_by_trying(self, architecture: Architecture, meta: LightningModule) -> int:
        """Find how a batch becomes `forward`'s arguments; the way that works is kept."""
        reasons: list[str] = []
        for arguments_of in WAYS:
            try:
                flops = self._flops_of(architecture, meta, arguments_of(self._first_batch(meta)))
            except Exception as error:  # the next way may fit; all reasons are reported
                reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                continue
            self._arguments_of = arguments_of
            return flops
        raise SearchError(
            "FLOPs cannot be counted: `forward` takes neither the first batch nor its first part "
            f"({reasons[0]}). Set `self.example_input_array` in the module."
        )

    def _first_batch(self, module: LightningModule) -> Any:
        if self._batch is None:
            with self._data.untouched():
                self._batch = next(iter(self._data.train_loader(module)))
        return self._batch


class Limits:
    """What an architecture must keep to before it is trained.

    Args:
        facts: measures candidates.
        max_params: most parameters.
        max_flops: most FLOPs of a forward pass of the example.
        constraints: each returns whether an architecture is allowed.
        checks: each returns why an architecture cannot be, None where it can.
    """

    def __init__(
        self,
        facts: Facts,
        max_params: int | None = None,
        max_flops: int | None = None,
        constraints: Sequence[Constraint] = (),
        checks: Sequence[Check] = (),
    ) -> None:
        self._facts, self._constraints, self._checks = facts, constraints, checks
        self._most = {name: most for name, most in (("params", max_params), ("flops", max_flops)) if most is not None}

    def allows(self, architecture: Architecture) -> bool:
        """Whether `violation` finds nothing."""
        return self.violation(architecture) is None

    def violation(self, architecture: Architecture) -> str | None:
        """The first limit that is broken, in words; None when all are kept.

        Raises:
            SearchError: FLOPs cannot be counted, or a constraint raised.
        """
        for check in self._checks:
            if (reason := check(architecture)) is not None:
                return reason
        for i, constraint in enumerate(self._constraints):
            if not _allows(constraint, i, architecture):
                return f"constraint `{getattr(constraint, '__name__', constraint)}` does not allow it"
        if not self._most:
            return None
        try:
            facts = self._facts.of(architecture)
        except SearchError:
            raise
        except Exception:  # cannot be built: its trial fails and says why
            return None
        for name, most in self._most.items():
            if facts[name] > most:
                return f"{facts[name]:,.0f} {name} > max_{name}={most:,}"
        return None


def _allows(constraint: Constraint, i: int, architecture: Architecture) -> bool:
    try:
        return bool(constraint(architecture))
    except Exception as error:
        raise SearchError(
            f"`constraints[{i}]` ({getattr(constraint, '__name__', repr(constraint))}) raised "
            f"{type(error).__name__}: {error} for the architecture {architecture}. It must return whether this is "
            "allowed (a parameter that does not exist in an architecture is no key of it)."
        ) from error


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
