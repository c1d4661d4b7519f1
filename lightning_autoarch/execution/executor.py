"""Who trains a candidate: an executor takes the spec of a trial and gives back its result.

A spec is plain data that can be pickled, and a result is too, so that an executor may send them to another process or
machine. `InProcess` trains here and now. The interface is that of `concurrent.futures`, with one addition: a trial
reports values while it trains, and the answer may end it early. A report belongs to the process of the loop, which has
the study; an executor that trains elsewhere passes each value to it and the answer back.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from lightning_autoarch.training.cross_validation import run_spec
from lightning_autoarch.training.recorder import Report
from lightning_autoarch.training.trial import TrialResult, TrialSpec


class Executor(Protocol):
    """Trains candidates."""

    def submit(self, spec: TrialSpec, report: Report) -> Future[TrialResult]:
        """Begin a trial, or continue it from the checkpoint in its directory.

        Args:
            spec: all that the trial depends on.
            report: called with (step, value) for each monitored value; True asks to end the trial.

        Returns:
            Its result. A candidate that fails is a result too; an exception is for what should end the search, such as
            a monitor that is not logged or a checkpoint that cannot be written.
        """
        ...

    def shutdown(self) -> None:
        """End all trials in work, which stay continuable, and release what the executor holds."""
        ...


class InProcess:
    """Trains each candidate in this process, one after the other: `submit` returns when the trial has ended.

    Ctrl-C is raised by `submit` itself.
    """

    def submit(self, spec: TrialSpec, report: Report) -> Future[TrialResult]:
        done: Future[TrialResult] = Future()
        try:
            done.set_result(run_spec(spec, report))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self) -> None:
        """Nothing is held."""
