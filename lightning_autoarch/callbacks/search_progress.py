"""One progress line for the whole search: updated in place on a terminal, otherwise one line for each trial."""

from __future__ import annotations

import sys
import time

from lightning_utilities.core.rank_zero import rank_zero_info
from tqdm.auto import tqdm

from lightning_autoarch.training.trial import TrialResult


class SearchProgress:
    """Shows the number of the trial, its result, the best score so far, and the time left.

    Args:
        n_trials: trials of the whole search.
        done: how many of them earlier runs have finished.
        mode: "min" or "max".
        best: the best score of earlier runs and the number of its trial; None without one.
    """

    def __init__(self, n_trials: int, done: int, mode: str, best: tuple[float, int] | None) -> None:
        self._n_trials, self._mode, self._best = n_trials, mode, best
        self._bar: tqdm[None] | None = None
        self._started, self._done_before, self._done = time.perf_counter(), done, done
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=n_trials, initial=done, leave=False, dynamic_ncols=True,
                bar_format="search {n_fmt}/{total_fmt} |{bar:12}| {desc}",
            )  # fmt: skip
            self._show("")

    def trial_started(self, number: int) -> None:
        self._number = number
        self._show(f"trial #{number}")

    def value(self, step: int, value: float) -> None:
        self._show(f"trial #{self._number}, value {step + 1}: {value:.4g}")

    def trial_ended(self, number: int, result: TrialResult) -> None:
        self._done += 1
        if result.state == "complete" and result.score is not None and self._is_better(result.score):
            self._best = (result.score, number)
        what = f"{result.score:.4g}" if result.score is not None and result.state == "complete" else result.state
        if result.error is not None:
            what += f" ({result.error})"
        if self._bar is None:
            rank_zero_info(f"search {self._done}/{self._n_trials} | trial #{number}: {what}{self._tail()}")
            return
        if result.error is not None:
            self.said(f"trial #{number}: {what}")
        self._bar.update(1)
        self._show(f"trial #{number}: {what}")

    def said(self, message: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        rank_zero_info(message)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _show(self, current: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(f"{current}{self._tail()}".removeprefix(" | "))

    def _tail(self) -> str:
        best = f" | best {self._best[0]:.4g} (#{self._best[1]})" if self._best is not None else ""
        return f"{best}{self._left()}"

    def _left(self) -> str:
        here = self._done - self._done_before
        if here == 0:
            return ""
        seconds = (time.perf_counter() - self._started) / here * (self._n_trials - self._done)
        return f" | {int(seconds // 60)}:{int(seconds % 60):02d} left"

    def _is_better(self, score: float) -> bool:
        return self._best is None or (score < self._best[0] if self._mode == "min" else score > self._best[0])
