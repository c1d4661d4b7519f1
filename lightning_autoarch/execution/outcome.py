"""The outcome of a search: the winner, or the reasons why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.training.trial import RETRIED, TrialResult

_FIX = "Fix the code and start again: trials that an exception ended are run again and do not count until then."
SAME_FAILURES: dict[str, int] = {"code": 5, "build": 20}  # of the first trials, after which the rest is not tried


class FirstFailures:
    """Ends a search whose first trials all fail at one line: the budget would be spent on the same error."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._alike: Counter[tuple[str, str]] | None = Counter()  # None after a trial that did not fail so

    def check(self, result: TrialResult) -> None:
        """Take the next result into account.

        Raises:
            SearchError: enough of the first trials have failed in the same way.
        """
        if self._alike is None or result.failure not in SAME_FAILURES:
            self._alike = None
            return
        error = result.error or ""
        self._alike[error.partition(":")[0], error.rpartition(" (")[2]] += 1
        n = self._alike.total()
        if len(self._alike) == 1 and n >= SAME_FAILURES[result.failure] and not self._ledger.ranking():
            raise SearchError(
                f"The search stops: its first {n} trials all failed in the same way, the last with {error}. {_FIX}"
            )


def winner_of(ledger: Ledger, unmet: str = "") -> FrozenTrial:
    """The best complete trial.

    Args:
        ledger: of the trials.
        unmet: descriptions of the limits that no architecture has kept to.

    Raises:
        SearchError: there is none; the message groups the reasons.
    """
    ranking = ledger.ranking()
    if ranking:
        return ranking[0]
    raise SearchError(_why_none(ledger.finished(), unmet))


def _why_none(trials: Sequence[FrozenTrial], unmet: str) -> str:
    if not trials:
        return (
            f"No architecture that was looked at keeps to the limits: {unmet}. Relax them, or widen the space."
            if unmet
            else "No trial was finished: the budget is spent."
        )
    reasons = Counter(str(t.user_attrs.get("error", "stopped early by the pruner")) for t in trials)
    lines = "\n".join(f"  {count} x {reason}" for reason, count in reasons.most_common())
    fix = f"\n{_FIX}" if any(trial.user_attrs.get("failure") in RETRIED for trial in trials) else ""
    return f"None of the {len(trials)} trials has a score:\n{lines}{fix}"
