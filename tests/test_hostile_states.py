"""States and studies of strangers: whatever is in them, it ends in an error of the package, or changes nothing.

Each state that a checkpoint may hold is taken apart: every field in it is removed, and replaced by values of other
types and sizes. The same is done to the attributes of a study's trials.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from guarded import Guard
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial
from search_options import merged
from torch import Tensor, nn

from lightning_autoarch import (
    ArchitectureSearch,
    ChannelPruning,
    Distillation,
    Int,
    MagnitudePruning,
    TransferLearning,
    load_pruned,
)
from lightning_autoarch.callbacks.prune.dynamic import RigL
from lightning_autoarch.callbacks.prune.teacher import make_teacher
from lightning_autoarch.core.errors import AutoArchError, CheckpointError
from lightning_autoarch.core.rng import rng_state, set_rng_state
from lightning_autoarch.core.schema import Schema, data, whole
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.schedule import CubicSparsity
from lightning_autoarch.search.bayesian import BayesianSampler
from lightning_autoarch.search.board import html_table, leaderboard
from lightning_autoarch.search.owner import Owner
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.search.study import Ledger
from lightning_autoarch.structure.recipe import apply_recipe_
from lightning_autoarch.training.inheritance import Parent, WeightInheritance, total_epochs
from lightning_autoarch.training.recorder import TrialRecorder


def nested(depth: int) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    return value


STRANGE: tuple[Any, ...] = (
    None, True, -1, 10**400, 2.5, math.nan, "x" * 500, "\x1b[2J", [], [[None]], {}, {"a": {"b": []}}, {1: 2},
    nested(200), object(), torch.zeros(3, device="meta"), torch.zeros(1).expand(10**12), torch.eye(2).to_sparse(),
)  # fmt: skip


def places(state: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of nested data; of a list, those of its first two items."""
    if at:
        yield at
    inner = state.items() if isinstance(state, dict) else enumerate(state[:2]) if isinstance(state, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def tampered(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The state with each part of it removed or replaced, and what else may stand in its place."""
    yield from ((f"instead of it: {value!r:.40}", value) for value in STRANGE)
    for at in places(state):
        for value in (*STRANGE, KeyError):
            changed = copy.deepcopy(state)
            holder = changed
            for key in at[:-1]:
                holder = holder[key]
            if value is KeyError:
                del holder[at[-1]]
            else:
                holder[at[-1]] = value
            name = "removed" if value is KeyError else f"{type(value).__name__}: {repr(value)[:40]}"
            yield f"{at} {name}", changed


def wrong(use: Callable[[Any], object], state: dict[str, Any]) -> tuple[int, list[str]]:
    """How many changed states were tried, and what went wrong with them."""
    n, found = 0, []
    for what, changed in tampered(state):
        n += 1
        try:
            use(changed)
        except AutoArchError as error:
            if len(str(error)) > 1000 or any(ord(c) < 32 and c not in "\n\t" for c in str(error)):
                found.append(f"{what}: {str(error)[:200]!r}")
        except Exception as error:  # what must not be
            found.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
    return n, found


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


RECIPE = {
    "format": 1,
    "tensors": {
        "a.weight": {"shape": [8, 4], "index": {"0": [[0, 2], [4, 6]]}},
        "a.bias": {"shape": [8], "index": {"0": [[0, 2], [4, 6]]}},
        "b.weight": {"shape": [2, 8], "index": {"1": [[0, 2], [4, 6]]}},
    },
    "attributes": {"a": {"out_features": 4}, "b": {"in_features": 4}},
}
MASKED = {
    "format": 1,
    "masks": {"a.weight": BitMask.ones((8, 4)).state()},
    "changed_at": 3,
    "postponed": False,
    "distill": {"teacher": "the module as the fit began"},
    "snapshot": {
        "module": Net().state_dict(),
        "optimizers": [torch.optim.SGD(Net().parameters(), lr=0.1).state_dict()],
        "schedulers": [{"last_epoch": 1}],
    },
}
RECORDED = {
    "format": 1, "history": [0.5], "counts": [True], "awaited": ["A"], "shares": {"sparsity": 0.5}, "stopped": False,
    "pruned": False, "failure": None, "epochs": 1, "seconds": 2.0, "at_validation": True, "metrics": {"loss": 0.5},
    "rng": rng_state(), "generators": {"train.generator": torch.Generator().get_state()},
}  # fmt: skip
CLOCK = {"begun": [[1, 3, 1.0], [2, 7, 2.25]], "best": 0.5, "wait": 1, "checked": 9}
GROUPS = {"strategy": "full", "freeze": [], "lr_scale": {}}
STATES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "MagnitudePruning": (lambda: MagnitudePruning(CubicSparsity(0.5), distill=Distillation()), MASKED),
    "RigL": (lambda: RigL(0.5), MASKED),
    "ChannelPruning": (lambda: ChannelPruning(0.5, of="flops"), {"format": 1, "recipe": RECIPE}),
    "Distillation": (Distillation, {"format": 1, "teacher": "the module as the fit began"}),
    "TransferLearning": (
        TransferLearning,
        {"format": 1, "epochs": 3, "groups": GROUPS, "start": {"a.weight": torch.ones(8, 4)}, "clock": CLOCK},
    ),
    "ArchitectureSearch": (
        lambda: ArchitectureSearch({"width": Int(1, 9)}, monitor="loss"),
        {"format": 1, "architecture": {"width": 3}, "score": 0.5, "trial": 0},
    ),
    "WeightInheritance": (lambda: WeightInheritance(Parent(0, None, 1)), {"format": 1, "share": 0.5, "reason": ""}),
    "TrialRecorder": (lambda: TrialRecorder("loss", "min", None, lambda step, value: False), RECORDED),
}  # fmt: skip


def load_changed(name: str) -> tuple[int, list[str]]:
    """How many changed states of a callback were loaded, and what went wrong."""
    make, state = STATES[name]
    callback = make()
    callback.load_state_dict(copy.deepcopy(state))  # as it is written, it is read
    return wrong(callback.load_state_dict, state)


def warm_up() -> None:
    """Of the guarded process: everything is imported before anything hostile is read."""
    for make, state in STATES.values():
        make().load_state_dict(copy.deepcopy(state))
    for use in USES.values():
        use(study_of(ATTRIBUTES, SYSTEM))


class TestStatesOfCallbacks:
    @pytest.mark.parametrize("name", STATES)
    def test_each_change_is_an_error_of_the_package_or_harmless(self, name: str, guard: Guard, tmp_path: Path) -> None:
        outcome = guard.run(load_changed, name, folder=tmp_path)
        assert outcome.problems() == [] and outcome.kind == "returned", outcome
        n, found = outcome.value
        assert found == [] and n >= 3 * len(STRANGE)

    @pytest.mark.parametrize("name", STATES)
    def test_without_a_version_it_is_read_and_of_a_newer_one_it_is_not(self, name: str) -> None:
        make, state = STATES[name]
        make().load_state_dict({field: value for field, value in copy.deepcopy(state).items() if field != "format"})
        with pytest.raises(CheckpointError, match=f"of {name} has format 99, but .* Update the package"):
            make().load_state_dict({**state, "format": 99})

    def test_the_error_names_owner_and_field(self) -> None:
        state = copy.deepcopy(MASKED)
        state["masks"]["a.weight"]["words"] = torch.zeros(4, dtype=torch.float32)
        expected = r"state of MagnitudePruning is not well formed: expected `masks.a.weight.words` to be a plain dense"
        with pytest.raises(CheckpointError, match=expected):
            MagnitudePruning(CubicSparsity(0.5)).load_state_dict(state)

    def test_start_from_checks_too(self) -> None:
        for name in ("MagnitudePruning", "ChannelPruning", "TransferLearning"):
            make, state = STATES[name]
            _, found = wrong(lambda changed, make=make: make().start_from(changed), state)
            assert found == []

    def test_winner_of_another_space_is_refused(self) -> None:
        search = ArchitectureSearch({"width": Int(1, 9)}, monitor="loss")
        for architecture in ({"width": 10**9}, {"width": 3, "class_path": "os.system"}, {}, {"widht": 3}):
            with pytest.raises(AutoArchError, match="trial #0, is not in this search's space"):
                search.load_state_dict({"architecture": architecture, "score": 0.5, "trial": 0})
        assert search.best_architecture is None


class TestRecipes:
    def test_each_change_leaves_the_module_or_fits_it(self) -> None:
        def use(changed: Any) -> None:
            net = Net()
            try:
                apply_recipe_(net, changed)
            except AutoArchError:
                assert [tuple(p.shape) for p in net.parameters()] == [(8, 4), (8,), (2, 8), (2,)]
                raise

        n, found = wrong(use, RECIPE)
        assert found == [] and n > 300

    def test_checkpoints_of_channel_pruning(self) -> None:
        small = {"a.weight": torch.ones(4, 4), "a.bias": torch.ones(4), "b.weight": torch.ones(2, 4)}
        weights = {**small, "b.bias": torch.ones(2)}
        content = {"state_dict": weights, "callbacks": {"lightning_autoarch.ChannelPruning": {"recipe": RECIPE}}}
        assert load_pruned(Net(), content)(torch.ones(1, 4)).tolist() == [[21.0, 21.0]]
        n, found = wrong(lambda changed: load_pruned(Net(), changed), content)
        assert found == [] and n > 300


class Strict(Net):
    """With a way of its own to read a state_dict."""

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        state[f"{prefix}version"]  # a KeyError
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[no-untyped-call]


class TestErrorsOfTheModule:
    def test_load_pruned(self) -> None:
        weights = {"a.weight": torch.ones(4, 4), "a.bias": torch.ones(4), "b.weight": torch.ones(2, 4)}
        content = {"state_dict": {**weights, "b.bias": torch.ones(2)}}
        with pytest.raises(CheckpointError, match=r"weights of Strict.*KeyError: 'version'") as caught:
            load_pruned(Strict(), content, RECIPE)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_teacher(self, tmp_path: Any) -> None:
        class Taught(Strict, L.LightningModule):
            pass

        torch.save(Net().state_dict(), tmp_path / "x.pt")
        with pytest.raises(AutoArchError, match="weights of another module: KeyError: 'version'") as caught:
            make_teacher(Taught(), tmp_path / "x.pt", "")
        assert isinstance(caught.value.__cause__, KeyError)


class TestRandomNumbers:
    def test_each_change_leaves_the_generators_alone(self) -> None:
        before = rng_state()
        schema = Schema("generators", 1, {"rng": data()})
        for at, change in ((0, "torch"), (1, "python"), (2, "numpy")):
            state = copy.deepcopy(before)
            state[change] = torch.zeros(7, dtype=torch.uint8) if at == 0 else state[change]
            if at:
                state[change][1] = state[change][1][:5]
            schema.read({"rng": state})  # plain data, but no state of a generator
            with pytest.raises(CheckpointError, match="states of random number generators"):
                set_rng_state(state)
        assert torch.equal(rng_state()["torch"], before["torch"]) and rng_state()["python"] == before["python"]


ATTRIBUTES = {
    "architecture": {"width": 2}, "seconds": 1.0, "epochs": 3, "params": 10, "flops": 20, "checkpoint": "best.ckpt",
    "error": "", "stderr": 0.1, "parent": 0, "inherited": 0.5, "total_epochs": 6, "sparsity": 0.5, "owner": None,
    "fold_scores": [1.0], "origin": "random", "expected": {"mean": 1.0, "std": 0.1},
}  # fmt: skip
SYSTEM = {
    "autoarch:proposal": {
        "origin": "bayesian",
        "expected": {"mean": 1.0, "std": 0.1},
        "hyperparameters": {"names": ["width"], "thetas": [[0.0, 0.0, 0.0]], "step": 0.1},
    },
    "constraints": [],
}
JSON = tuple(value for value in STRANGE if not isinstance(value, Tensor) and type(value) is not object)


def study_of(user: dict[str, Any], system: dict[str, Any], state: TrialState = TrialState.COMPLETE) -> optuna.Study:
    study = optuna.create_study(direction="minimize", study_name="Net")
    for number in range(3):
        attributes = user if number == 1 else {**ATTRIBUTES, "architecture": {"width": number + 5}}
        study.add_trial(
            create_trial(
                state=state if number == 1 else TrialState.COMPLETE,
                value=float(number + 1) if state == TrialState.COMPLETE or number != 1 else None,
                params={"width": number + 5},
                distributions={"width": IntDistribution(1, 9)},
                user_attrs=attributes,
                system_attrs=system if number == 1 else {},
            )
        )
    return study


def searched(study: optuna.Study) -> None:
    """All that a search asks of a study before it trains."""
    space = SearchSpace({"width": Int(1, 9)})
    study.sampler = BayesianSampler(space=space, n_startup=1)
    ledger = Ledger(study, space, None)
    assert ledger.seconds() >= 0
    ledger.twin({"width": 3}, 99)
    for trial in ledger.ranking():
        total_epochs(trial.user_attrs)
        assert ledger.architecture(trial).keys() == {"width"}
    assert ledger.claim(10) is not None


def shown_(study: optuna.Study) -> None:
    assert "\x1b" not in leaderboard(study)
    assert "\x1b" not in html_table(study)


USES = {"searched": searched, "shown": shown_}


def use_changed(name: str) -> tuple[int, list[str]]:
    """How many studies with a changed attribute were used, and what went wrong."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    use, n, found = USES[name], 0, []
    for attribute in (*ATTRIBUTES, *SYSTEM):
        for value in (*JSON, KeyError):
            user, system = dict(ATTRIBUTES), dict(SYSTEM)
            held = user if attribute in user else system
            held[attribute] = value
            if value is KeyError:
                del held[attribute]
            n += 1
            try:
                use(study_of(user, system))
            except AutoArchError:
                pass
            except Exception as error:  # what must not be
                found.append(f"{attribute} {value!r:.40}: {type(error).__name__}: {str(error)[:200]}")
    return n, found


class TestStudies:
    @pytest.mark.parametrize("name", USES)
    def test_attributes_of_trials(self, name: str, guard: Guard, tmp_path: Path) -> None:
        outcome = guard.run(use_changed, name, folder=tmp_path)
        assert outcome.problems() == [] and outcome.kind == "returned", outcome
        n, found = outcome.value
        assert found == [] and n > 200

    def test_owners(self) -> None:
        mine = vars(Owner.myself())
        assert Owner.of(mine) == Owner.myself()
        for owner in (3, [], {}, {**mine, "pid": -1}, {**mine, "pid": 10**12}, {**mine, "pid": "1"}, {"host": "x"}):
            assert Owner.of(owner) is None

    @pytest.mark.filterwarnings("ignore:Fixed parameter width with value")  # Optuna takes it all the same
    def test_fixed_values_that_are_none_of_the_space_are_never_built(self, tmp_path: Any) -> None:
        study = optuna.create_study(study_name="Module", storage=f"sqlite:///{tmp_path}/study.db")
        for value in (10**9, -1, 2.5, "9", None, [3], {"a": 1}):
            study.enqueue_trial({"width": value})
        built: list[int] = []

        def factory(width: int) -> L.LightningModule:
            built.append(width)
            return Module(width)

        search = fitted(tmp_path, factory=factory, n_trials=1)
        assert built and all(1 <= width <= 9 for width in built)
        assert search.best_architecture is not None and 1 <= search.best_architecture["width"] <= 9

    def test_whole_numbers_that_are_too_large(self) -> None:
        with pytest.raises(CheckpointError, match="whole number >= 0, got a whole number of 1329 bits"):
            Schema("A", 1, {"n": whole()}).read({"n": 10**400})


class Module(L.LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, width)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(tmp_path: Any, module: L.LightningModule | None = None, **options: Any) -> ArchitectureSearch:
    search = ArchitectureSearch(
        {"width": Int(1, 9)},
        monitor="loss",
        sampler="random",
        **merged({"n_trials": 1, "study": {"directory": tmp_path}}, options),
    )
    batches = torch.utils.data.DataLoader(torch.ones(2, 2), batch_size=2)
    L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[search], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(module or Module(), batches, batches)  # fmt: skip
    return search
