"""Arguments of the Trainer in a space: in trials, in the winner's fit, after a resume; and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_autoarch import ArchitectureSearch, AutoArchError, SearchError, SpaceError

SPACE: dict[str, Any] = {
    "trainer.gradient_clip_val": [0.25],
    "trainer.gradient_clip_algorithm": ["value"],
    "trainer.accumulate_grad_batches": [3],
}


class Watched(nets.Net):
    seen: list[Any] = []

    def on_train_start(self) -> None:
        clip = self.trainer.gradient_clip_algorithm
        self.seen.append((self.trainer.gradient_clip_val, clip and clip.value, self.trainer.accumulate_grad_batches))

    def on_train_end(self) -> None:
        self.seen.append(self.trainer.global_step)


def search(space: dict[str, Any], **options: Any) -> ArchitectureSearch:
    return ArchitectureSearch(space, **{"monitor": "val_loss", "n_trials": 1, "sampler": "random", **options})


def test_trials_and_the_winners_fit_have_them_and_a_resumed_fit_too(tmp_path: Path) -> None:
    Watched.seen = seen = []
    trainer = nets.trainer(tmp_path, callback := search(SPACE))
    trainer.fit(Watched(), *nets.loaders())
    assert seen == [(0.25, "value", 3), 2] * 2  # three batches an epoch are one step
    assert callback.best_architecture == {name: choices[0] for name, choices in SPACE.items()}
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    seen.clear()
    resumed = nets.trainer(tmp_path / "elsewhere", search(SPACE), max_epochs=3)
    resumed.fit(Watched(), *nets.loaders(), ckpt_path=tmp_path / "half.ckpt")
    assert seen == [(0.25, "value", 3), 3]


@pytest.mark.parametrize(
    ("space", "options", "kind", "said"),
    [
        ({"trainer.precision": ["16-mixed"]}, {}, SpaceError, "can be set for the trials.* Possible are `trainer.acc"),
        (
            {"trainer.gradient_clip": [1.0]},
            {},
            SpaceError,
            "not an argument of Trainer. Did you mean `trainer.grad",
        ),
        ({"trainer.accumulate_grad_batches": [0, 1]}, {}, SpaceError, "to be a whole number >= 1, got 0"),
        ({"trainer.gradient_clip_algorithm": ["sum"]}, {}, SpaceError, "to be one of value, norm, got 'sum'"),
        ({"trainer.gradient_clip_val": [-1.0]}, {}, SpaceError, "to be a number >= 0"),
        (
            {"trainer.gradient_clip_val": [0.5]},
            {"trial": {"trainer": {"gradient_clip_val": 1}}},
            SearchError,
            "`trainer.gradient_clip_val` of the space and `trial.trainer` set the same",
        ),
        ({"gradient_clip_val": [1.0]}, {}, SpaceError, "Did you mean `trainer.gradient_clip_val`"),
    ],
)
def test_what_is_refused_at_the_start(
    tmp_path: Path, space: dict[str, Any], options: dict[str, Any], kind: type[AutoArchError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        nets.trainer(tmp_path, search(space, **options)).fit(nets.Net(), *nets.loaders())


def test_a_scheduler_of_accumulation_sets_the_same(tmp_path: Path) -> None:
    space = {"trainer.accumulate_grad_batches": [1, 2]}
    trainer = nets.trainer(tmp_path, search(space), GradientAccumulationScheduler({0: 2}))
    with pytest.raises(SearchError, match="GradientAccumulationScheduler set the same"):
        trainer.fit(nets.Net(), *nets.loaders())
