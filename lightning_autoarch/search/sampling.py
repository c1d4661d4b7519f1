"""What our samplers share: random numbers from (seed, trial number), whole architectures, and nothing proposed twice.

A trial's proposal depends on the seed, its number and the trials with smaller numbers, never on what the process did
before: a process that is killed and started again, between trials or within one, proposes what it would have proposed.

    before the trial      infer_relative_search_space -> every parameter          sample_relative -> the active ones
    a parameter outside   sample_independent, from (seed, number, name)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_autoarch.core.errors import SearchError, SpaceExhausted
from lightning_autoarch.seam.optuna import fixed_params
from lightning_autoarch.search.encoding import Column, Encoding, NodeLike
from lightning_autoarch.search.inferred import infer_nodes
from lightning_autoarch.search.observations import Flat, FlatKey, flat_key

if TYPE_CHECKING:
    from lightning_autoarch.search.space import SearchSpace

Feasible: TypeAlias = Callable[[dict[str, Any]], bool]
MAX_DRAWS = 10_000  # random architectures looked at before a search gives up
DRAWS_AT_ONCE = 200  # after as many rejected draws a small finite space is enumerated
ENUMERABLE = 50_000  # architectures in a small finite space


@dataclass(frozen=True)
class Ask:
    """All that the proposal of one trial depends on.

    Attributes:
        study: of the trial.
        trial: to be given an architecture.
        trials: with smaller numbers.
        encoding: of the space.
        rng: random numbers of this trial.
    """

    study: Study
    trial: FrozenTrial
    trials: Sequence[FrozenTrial]
    encoding: Encoding
    rng: np.random.Generator


class ArchitectureSampler(BaseSampler):
    """Abstract: proposes whole architectures, each at most once.

    Args:
        space: the search space; None takes the union of what the study's trials have (`search/inferred.py`).
        feasible: False for an architecture that must not be tried. It receives what `space.architecture` returns, or
            the flat parameters where `space` is None, and must be a pure function.
        seed: one seed, one sequence.
    """

    def __init__(self, space: SearchSpace | None, feasible: Feasible | None, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise SearchError(f"Expected `seed` to be a whole number >= 0, got {seed!r}.")
        self.space, self.feasible, self.seed = space, feasible, seed
        self._feasible_memo: dict[FlatKey, bool] = {}
        self._small: bool | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if len(study.directions) > 1:
            raise SearchError(
                f"{type(self).__name__} has one objective, the study has {len(study.directions)}: use NSGA-II."
            )
        trials = earlier_trials(study, trial) if self.space is None else []
        return {node.name: node.distribution for node in self._nodes(trials)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        trials = earlier_trials(study, trial)
        encoding, rng = Encoding(self._nodes(trials)), generator(self.seed, trial.number)
        flat = self._propose(Ask(study, trial, trials, encoding, rng))
        return with_fixed(encoding, flat, fixed_params(trial), rng)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, generator(self.seed, trial.number, param_name))

    def is_feasible(self, flat: Flat) -> bool:
        """Memoised by architecture."""
        key = flat_key(flat)
        if key not in self._feasible_memo:
            self._feasible_memo[key] = self.feasible is None or bool(self.feasible(self.architecture(flat)))
        return self._feasible_memo[key]

    def architecture(self, flat: Flat) -> dict[str, Any]:
        """What the user's functions receive."""
        return dict(flat) if self.space is None else self.space.architecture(flat)

    def random_new(self, encoding: Encoding, seen: frozenset[FlatKey], rng: np.random.Generator) -> Flat:
        """A random feasible architecture that is not in `seen`.

        Raises:
            SpaceExhausted: a small finite space has none left.
            SearchError: none among `MAX_DRAWS` random ones.
        """
        for i in range(MAX_DRAWS // DRAWS_AT_ONCE):
            for row in encoding.random(DRAWS_AT_ONCE, rng):
                flat = encoding.decode(row)
                if flat_key(flat) not in seen and self.is_feasible(flat):
                    return flat
            if i == 0 and self.space is None and self.feasible is None:
                return flat  # nobody knows the whole space of a plain study: repeat rather than stop
            if i == 0 and self._is_small():
                return self._enumerated_new(seen, rng)
        raise SearchError(
            f"None of {MAX_DRAWS} random architectures is feasible and new: relax the constraints or widen the space."
        )

    def _propose(self, ask: Ask) -> Flat:
        raise NotImplementedError

    def _nodes(self, trials: Sequence[FrozenTrial]) -> Sequence[NodeLike]:
        return infer_nodes(trials) if self.space is None else self.space.nodes

    def _is_small(self) -> bool:
        if self._small is None:
            self._small = self.space is not None and self.space.cardinality(ENUMERABLE) <= ENUMERABLE
        return self._small

    def _enumerated_new(self, seen: frozenset[FlatKey], rng: np.random.Generator) -> Flat:
        assert self.space is not None
        left = [flat for flat in self.space.points() if flat_key(flat) not in seen]
        for i in rng.permutation(len(left)):
            if self.is_feasible(left[i]):
                return dict(left[i])
        raise SpaceExhausted(f"All feasible architectures of the space have been tried ({len(seen)} in the study).")


class RandomArchitectureSampler(ArchitectureSampler):
    """Random architectures: feasible, each at most once, and the rest of a small finite space to the last one.

    Args: see `ArchitectureSampler`.

    >>> import optuna
    >>> from lightning_autoarch.search.space import SearchSpace
    >>> space = SearchSpace({"width": [8, 16, 32]})
    >>> study = optuna.create_study(sampler=RandomArchitectureSampler(space))
    >>> sorted(space.suggest(study.ask())["width"] for _ in range(3))
    [8, 16, 32]
    """

    def __init__(self, space: SearchSpace, feasible: Feasible | None = None, seed: int = 0) -> None:
        super().__init__(space, feasible, seed)

    def _propose(self, ask: Ask) -> Flat:
        return self.random_new(ask.encoding, frozenset(flat_key(t.params) for t in ask.trials), ask.rng)


class SeededByTrial(BaseSampler):
    """A stock sampler whose state is in the study (NSGA-II, TPE), made anew for each trial so that it can be resumed.

    Args:
        make: seed -> sampler.
        seed: one seed, one sequence.

    >>> from optuna.samplers import NSGAIISampler
    >>> sampler = SeededByTrial(lambda seed: NSGAIISampler(seed=seed), seed=3)
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int = 0) -> None:
        self._make, self.seed = make, seed
        self._made: tuple[int, BaseSampler] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial.number).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Asked twice: NSGA-II caches a generation's parents in the study and reads them back in another order, so the
        # first call would differ from that of a restarted process.
        self._of(trial.number).sample_relative(study, trial, search_space)
        self._made = None
        return self._of(trial.number).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, generator(self.seed, trial.number, param_name))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._made = None  # a re-attached trial starts over
        self._of(trial.number).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial.number).after_trial(study, trial, state, values)

    def _of(self, number: int) -> BaseSampler:
        if self._made is None or self._made[0] != number:
            self._made = number, self._make(int(generator(self.seed, number).integers(2**31)))
        return self._made[1]


def generator(seed: int, number: int, name: str = "") -> np.random.Generator:
    """Random numbers of one trial, or of one parameter in it."""
    return np.random.default_rng([seed, number, zlib.crc32(name.encode())])


def draw(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """One value, uniform on the distribution's scale."""
    column = Column(distribution)
    return column.value(column.draw(1, rng)[0])


def earlier_trials(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """Trials with smaller numbers: the same ones whenever, and by whatever process, this trial is proposed."""
    return [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]


def with_fixed(encoding: Encoding, flat: Flat, fixed: Mapping[str, Any], rng: np.random.Generator) -> Flat:
    """The proposal around what `enqueue_trial` has fixed."""
    # What a study holds, anybody may have written; what is no value of the space, the loop refuses.
    columns = {name: encoding.columns[j] for name, j in encoding.index.items()}
    given = fixed.items() if isinstance(fixed, Mapping) else ()
    known = {name: value for name, value in given if name in columns and columns[name].contains(value)}
    if not known:
        return flat
    return encoding.decode(encoding.repair(encoding.encode({**flat, **known}), rng)[0])


def sign_of(study: Study) -> float:
    """1 to maximise, -1 to minimise."""
    return 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
