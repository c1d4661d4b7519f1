"""The samplers that have a name."""

from __future__ import annotations

from collections.abc import Callable

from optuna.samplers import BaseSampler, NSGAIISampler

from lightning_autoarch.search.space import Architecture, SearchSpace

SAMPLERS = ("random", "bayesian", "genetic")

MODULES_BUILT = 16  # for one proposal; each costs a module's `__init__` and a walk over it, 1 to 2 ms for a small net
POPULATION = 10  # NSGA-II's own 50 would make a search of 40 trials purely random


def named_sampler(
    name: str,
    space: SearchSpace,
    features: Callable[[Architecture], dict[str, float]],
    feasible: Callable[[Architecture], bool],
    seed: int,
) -> BaseSampler:
    """The sampler of this name; each draws from (seed, trial number), so that a restart changes nothing."""
    from lightning_autoarch.search.bayesian import BayesianSampler, RandomArchitectureSampler, SeededByTrial

    if name == "random":
        return RandomArchitectureSampler(space, feasible, seed)
    if name == "genetic":
        return SeededByTrial(lambda drawn: NSGAIISampler(population_size=POPULATION, seed=drawn), seed)
    return BayesianSampler(
        space=space, features=features, feasible=feasible, seed=seed, max_feature_calls=MODULES_BUILT
    )
