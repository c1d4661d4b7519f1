"""Limits that are checked before an architecture is trained: sizes, the user's constraints, checks of callbacks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_autoarch.core.errors import SearchError, did_you_mean
from lightning_autoarch.search.encoding import Encoding
from lightning_autoarch.search.space import Architecture, SearchSpace
from lightning_autoarch.training.module_facts import ModuleFacts

SIZES = ("params", "flops")
Constraint = Callable[[Architecture], bool]
Check = Callable[[Architecture], str | None]

DRAWS = 200  # random architectures that are tried before the limits count as unmet: 0.4 s for a small net


class Limits:
    """The limits of a search.

    Args:
        facts: measures candidates.
        sizes: the largest allowed "params" and "flops".
        constraints: each returns whether an architecture is allowed.
        checks: each returns why an architecture cannot be trained, or None.
    """

    def __init__(
        self,
        facts: ModuleFacts,
        sizes: Mapping[str, float],
        constraints: Sequence[Constraint] = (),
        checks: Sequence[Check] = (),
    ) -> None:
        self._facts, self._constraints, self._checks = facts, constraints, checks
        self._most = dict(sizes)
        self._smallest: dict[str, float] = {}  # of the architectures whose size was looked at
        self._refused: Counter[str] = Counter()

    @property
    def has_sizes(self) -> bool:
        """Whether there is a limit on a size."""
        return bool(self._most)

    def unmet(self) -> str:
        """The limits that every architecture so far has exceeded, with the smallest size seen; empty if none."""
        sizes = [
            f"`limits.{name}={most:,.0f}`: the smallest has {self._smallest[name]:,.0f}"
            for name, most in self._most.items()
            if self._smallest.get(name, 0) > most
        ]
        return "; ".join([*sizes, *(f"{reason} ({n} times)" for reason, n in self._refused.most_common(3))])

    def sizes(self, architecture: Architecture) -> dict[str, int]:
        """Those of an architecture that has been trained, as the study keeps them: "params", and "flops" if measured.

        Empty where they cannot be measured outside of a training, unless there is a limit on them.

        Raises:
            SearchError: there is one.
        """
        try:
            facts = self._facts.of(architecture)
        except SearchError:
            raise
        except Exception as error:  # whatever `setup` and `configure_model` raise outside of a training
            if not self._most:
                return {}
            raise SearchError(
                f"`limits.{next(iter(self._most))}` cannot be checked: a trial has trained, but its module cannot be "
                f"built outside of a training ({type(error).__name__}: {error}). Make its layers in `__init__`, or "
                "in a `configure_model` that needs nothing of the running training."
            ) from error
        return {name: int(facts[name]) for name in SIZES if name in facts}

    def allows(self, architecture: Architecture) -> bool:
        """Whether `violation` finds nothing."""
        return self.violation(architecture) is None

    def violation(self, architecture: Architecture) -> str | None:
        """A description of the first limit that is broken; None when all are kept.

        Raises:
            SearchError: FLOPs cannot be counted, or a constraint raised.
        """
        for check in self._checks:
            if (reason := check(architecture)) is not None:
                self._refused[reason] += 1
                return reason
        for i, constraint in enumerate(self._constraints):
            if not _allows(constraint, i, architecture):
                reason = f"constraint `{getattr(constraint, '__name__', constraint)}` does not allow it"
                self._refused[reason] += 1
                return reason
        if not self._most:
            return None
        try:
            facts = self._facts.of(architecture)
        except SearchError:
            raise
        except Exception:  # cannot be built: its trial fails and says why
            return None
        for name in self._most:
            self._smallest[name] = min(facts[name], self._smallest.get(name, math.inf))
        for name, most in self._most.items():
            if facts[name] > most:
                return f"{facts[name]:,.0f} {name}, over the limit of {most:,.0f}"
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


def checked_sizes(given: Mapping[str, float] | None) -> dict[str, float]:
    """The argument `limits` of a search.

    Raises:
        SearchError: it is no mapping, or has an unknown name or a value that is no positive number.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SearchError(f'Expected `limits` to be a mapping such as {{"params": 2e6}}, got {given!r}.')
    for name, most in given.items():
        if name not in SIZES:
            near = did_you_mean(str(name), SIZES)
            raise SearchError(f"Expected the names in `limits` to be among {', '.join(SIZES)}, got `{name}`.{near}")
        if isinstance(most, bool) or not isinstance(most, int | float) or not most > 0:
            raise SearchError(f"Expected `limits.{name}` to be a number > 0, such as 2e6, got {most!r}.")
    return dict(given)


def check_sizes_can_be_met(limits: Limits, space: SearchSpace) -> None:
    """Check before the first trial that some architecture of the space is within the limits.

    The point with all parameters at their lowest is nearly always the smallest. If it exceeds a limit, random ones are
    tried before the search is refused.

    Raises:
        SearchError: none of those is within the limits; the message names them, and the smallest size seen.
    """
    if not limits.has_sizes:
        return
    encoding = Encoding(space.nodes)
    rows = np.vstack([np.zeros((1, len(encoding.names))), encoding.random(DRAWS, np.random.default_rng(0))])
    if not any(limits.allows(space.architecture(encoding.decode(row))) for row in rows):
        raise SearchError(
            f"No architecture of the {len(rows)} that were looked at keeps to the limits: {limits.unmet()}. Relax "
            "them, or widen the space."
        )
