"""Real fits: what is taken over, what is trained when and how fast, and that it holds."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from nets import loaders
from torch import nn
from transfer_nets import QUIET, Epochs, Tuned, fit, grouped, moved, source

from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import CheckpointError, TransferError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.tune.thawing import Thawing

HEAD = ["head.weight", "head.bias"]
TOP = ["backbone.3.weight", "backbone.3.bias", "backbone.4.weight", "backbone.4.bias"]
LOW = ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]


def test_two_in_one_trainer() -> None:
    with pytest.raises(TransferError, match=r"Expected one TransferLearning in a Trainer, .* got 2 with"):
        L.Trainer(**QUIET, callbacks=[TransferLearning(), TransferLearning(freeze="backbone")])


class TestWeights:
    def test_the_ten_lines_of_a_user(self, tmp_path: Path) -> None:
        torch.save({"state_dict": source()}, tmp_path / "pretrained.ckpt")
        module, transfer = Tuned(), TransferLearning(tmp_path / "pretrained.ckpt", freeze="backbone")
        fit(module, transfer, max_epochs=2)
        assert moved(module, source()) == set(HEAD)
        assert transfer.report is not None and transfer.report.share == 1.0
        assert all(p.requires_grad for p in module.parameters())

    def test_reinit_is_not_taken_over(self) -> None:
        module, transfer = Tuned(), TransferLearning(source(), freeze="*", reinit="head", thawing=Thawing(unfreeze={}))
        with pytest.raises(TransferError, match="everything is frozen"):
            fit(module, transfer)
        module = Tuned()
        transfer = TransferLearning(source(), freeze="head", reinit="head")
        with pytest.warns(UserWarning, match=r"not taken over from the checkpoint: `head.weight`, `head.bias`"):
            fit(module, transfer, max_epochs=1)
        fresh = Tuned().state_dict()
        assert torch.equal(module.head.weight, fresh["head.weight"])
        assert transfer.report is not None and transfer.report.names("initialised") == HEAD

    def test_reinit_without_a_checkpoint_makes_new(self) -> None:
        module = Tuned()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.warns(UserWarning, match=r"Frozen, but not taken over from the checkpoint: `head.weight`\."):
            fit(module, TransferLearning(freeze="head", reinit=["head.weight"]), max_epochs=1)
        assert not torch.equal(module.head.weight, before["head.weight"])
        assert torch.equal(module.head.bias, before["head.bias"])

    def test_reinit_of_what_cannot(self) -> None:
        class Own(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.token = nn.Parameter(torch.zeros(1))

        with pytest.raises(TransferError, match=r"`reset_parameters` of Own to make `token`"):
            fit(Own(), TransferLearning(reinit="token"))

    def test_another_head_is_left_out(self) -> None:
        weights = source()
        weights["head.weight"], weights["head.bias"] = torch.zeros(5, 8), torch.zeros(5)
        module, transfer = Tuned(), TransferLearning(weights, strategy="linear_probe")
        fit(module, transfer, max_epochs=1)
        assert transfer.report is not None and transfer.report.names("skipped") == HEAD
        assert moved(module, weights | {name: Tuned().state_dict()[name] for name in HEAD}) == set(HEAD)

    def test_rules_and_classes_go_to_the_matching(self) -> None:
        weights = {name.replace("backbone.", "trunk."): tensor for name, tensor in source().items()}
        transfer = TransferLearning(
            weights, rules=[("trunk", "backbone")], head="head", matching=Matching(classes={0: 0})
        )
        fit(Tuned(), transfer, max_epochs=1)
        assert transfer.report is not None and transfer.report.share == 1.0

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ({"conv.weight": torch.zeros(3, 3)}, "names that the source and the module share, got none"),
            ({"head.weight": torch.zeros(3, 3)}, "Tuned in dict, but not one parameter was taken over"),
            ({"backbone.1.running_mean": torch.ones(8)}, "Tuned in dict, but not one parameter was taken over"),
        ],
    )
    def test_another_architecture(self, weights: Any, message: str) -> None:
        module = Tuned()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(TransferError, match=message):
            fit(module, TransferLearning(weights))
        assert moved(module, before) == set() and all(p.requires_grad for p in module.parameters())

    def test_no_checkpoint_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="got nothing there"):
            fit(Tuned(), TransferLearning(tmp_path / "none.ckpt"))

    def test_a_second_fit_goes_on(self) -> None:
        module, transfer = Tuned(), TransferLearning(source(), freeze="backbone", l2_sp=0.1)
        fit(module, transfer, max_epochs=1)
        after = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        fit(module, transfer, max_epochs=1)
        assert moved(module, after) == set(HEAD)
        steps = torch.linalg.vector_norm(module.head.weight - after["head.weight"])
        back = torch.linalg.vector_norm(module.head.weight - source()["head.weight"])
        assert steps < back  # and did not begin again at the checkpoint
        assert torch.equal(transfer.state_dict()["start"]["head.weight"], source()["head.weight"])

    def test_another_module_is_given_them_as_well(self) -> None:
        transfer = TransferLearning(source(), freeze="backbone")
        for _ in range(2):
            module = Tuned()
            fit(module, transfer, max_epochs=1)
            assert moved(module, source()) == set(HEAD)

    def test_a_trainer_that_goes_on_longer(self) -> None:
        module, spy = Tuned(), Epochs()
        trainer = fit(
            module, TransferLearning(source(), strategy="lp_ft", thawing=Thawing(probe_epochs=1)), spy, max_epochs=2
        )
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, *loaders(shuffle=False))
        assert [len(names) for names in spy.trained] == [2, 10, 10, 10]

    def test_modules_made_in_configure_model(self) -> None:
        class Late(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.late = self.head
                del self.head

            def configure_model(self) -> None:
                if not hasattr(self, "head"):
                    self.head = nn.Linear(8, 1)
                    del self.late

        module = Late()
        fit(module, TransferLearning(source(), freeze="backbone"), max_epochs=1)
        assert moved(module, source()) == set(HEAD)

    def test_configure_model_that_makes_everything_again(self) -> None:
        class Again(Tuned):
            def configure_model(self) -> None:
                self.head = nn.Linear(8, 1)

        with pytest.raises(TransferError, match=r"got a new one for `head.weight`.*`configure_model` more than once"):
            fit(Again(), TransferLearning(source()))

    @pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
    def test_lazy_parameters(self) -> None:
        module = Tuned()
        module.head = nn.LazyLinear(1)
        with pytest.raises(TransferError, match=r"`head.weight` with a shape: run a batch"):
            TransferLearning(source()).setup(L.Trainer(**QUIET, max_epochs=1), module, "fit")

    def test_another_callback_that_freezes_layers(self) -> None:
        module = Tuned()
        with pytest.raises(TransferError, match=r"TransferLearning and BackboneFinetuning both.*Remove Backbone"):
            fit(module, BackboneFinetuning(1), TransferLearning(source()))

    @pytest.mark.parametrize("first", [True, False])
    def test_averages_begin_with_them(self, first: bool) -> None:
        module = Tuned(seed=9)
        callbacks = [EMAWeightAveraging(decay=0.9), TransferLearning(source(), freeze="backbone")]
        fit(module, *(callbacks if first else callbacks[::-1]), max_epochs=2)
        for name in source().keys() - set(HEAD):  # as near as an average of equal numbers is
            torch.testing.assert_close(module.state_dict()[name], source()[name])


class TestFreezing:
    @pytest.mark.parametrize("optimizer", ["all", "filter", "head"])
    def test_what_thaws_trains_from_then_on(self, optimizer: str) -> None:
        module, spy = Tuned(optimizer=optimizer), Epochs()
        transfer = TransferLearning(
            source(), freeze="backbone", thawing=Thawing(unfreeze={1: "backbone.[34]", 3: ["backbone"]})
        )
        trainer = fit(module, transfer, spy)
        assert spy.trained == [HEAD, TOP + HEAD, TOP + HEAD, LOW + TOP + HEAD]
        places = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
        assert sorted(places) == sorted(map(id, module.parameters()))
        assert len(moved(module, source())) == len(source())

    def test_a_parameter_that_no_optimizer_has_gets_the_options_of_the_first_group(self) -> None:
        module = Tuned(optimizer="head", scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5))
        trainer = fit(
            module, TransferLearning(freeze="backbone", layer_decay=0.5, thawing=Thawing(unfreeze={1: "backbone"}))
        )
        first, *others = trainer.optimizers[0].param_groups
        assert [group["lr"] for group in [first, *others]] == [0.05 / 16, 0.0125 / 16, 0.025 / 16]
        assert {group["weight_decay"] for group in others} == {0.01}

    def test_strategies(self) -> None:
        expected = {
            "full": [LOW + TOP + HEAD] * 4,
            "linear_probe": [HEAD] * 4,
            "lp_ft": [HEAD, HEAD, LOW + TOP + HEAD, LOW + TOP + HEAD],
            "gradual": [HEAD, TOP + HEAD, LOW + TOP + HEAD, LOW + TOP + HEAD],
        }
        for strategy, trained in expected.items():
            spy = Epochs()
            fit(Tuned(optimizer="filter"), TransferLearning(source(), strategy=strategy), spy)  # type: ignore[arg-type]
            assert spy.trained == trained, strategy

    def test_what_the_user_froze_stays_frozen_but_for_unfreeze(self) -> None:
        module, spy = Tuned(), Epochs()
        module.backbone.requires_grad_(False)
        fit(module, TransferLearning(source(), strategy="gradual", thawing=Thawing(unfreeze={2: "backbone.3"})), spy)
        assert spy.trained == [HEAD, HEAD, TOP[:2] + HEAD, TOP[:2] + HEAD]
        assert not any(p.requires_grad for p in module.backbone.parameters())  # as it was

    def test_frozen_norms_are_in_eval_until_they_thaw(self) -> None:
        module, spy = Tuned(), Epochs()
        fit(module, TransferLearning(source(), strategy="gradual"), spy)
        assert spy.in_train == [[], ["backbone.4"], ["backbone.1", "backbone.4"], ["backbone.1", "backbone.4"]]
        assert not module.backbone[1]._forward_pre_hooks

    def test_whoever_calls_train(self) -> None:
        class Careless(Tuned):
            def on_train_epoch_start(self) -> None:
                self.train()

            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                self.train()
                frozen = self.backbone(batch[0])
                self.eval()
                assert torch.equal(self.backbone(batch[0]), frozen)
                self.train()
                return super().training_step(batch, batch_idx)

        module = Careless()
        fit(module, TransferLearning(source(), freeze="backbone"), val_check_interval=1)
        assert moved(module, source()) == set(HEAD)

    def test_a_norm_without_parameters_goes_with_what_is_before_it(self) -> None:
        module, spy = Tuned(), Epochs()
        module.backbone[1] = nn.BatchNorm1d(8, affine=False)
        fit(module, TransferLearning(strategy="linear_probe"), spy, max_epochs=1)
        assert spy.in_train == [[]]

    def test_frozen_weights_do_not_decay(self) -> None:
        class Decaying(Tuned):
            def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
                return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5)

        module = Decaying()
        fit(module, TransferLearning(source(), strategy="linear_probe"))
        assert moved(module, source()) == set(HEAD)

    def test_lbfgs(self) -> None:
        class Second(Tuned):
            def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
                return torch.optim.LBFGS(parameters, lr=0.1, max_iter=2)

        module = Second()
        fit(module, TransferLearning(source(), strategy="linear_probe"), max_epochs=1)
        assert moved(module, source()) == set(HEAD)
        with pytest.raises(TransferError, match="LBFGS, which has no parameter groups"):
            fit(Second(), TransferLearning(layer_decay=0.5))

    def test_compiled_submodules(self) -> None:
        module, spy = Tuned(), Epochs()
        module.backbone = torch.compile(module.backbone, backend="eager")
        transfer = TransferLearning(
            source(), freeze="backbone.[01]", strategy="gradual", thawing=Thawing(unfreeze={2: "backbone.0"})
        )
        fit(module, transfer, spy)
        assert [len(names) for names in spy.trained] == [2, 6, 8, 8]
        weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}
        same = {name for name in weights if torch.equal(weights[name], source()[name])}
        assert same == {f"backbone.1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")} | {
            "backbone.1.num_batches_tracked"
        }

    def test_compiled_norms_are_held_against_train(self) -> None:
        class Careless(Tuned):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                self.train()

        module = Careless()
        module.backbone = torch.compile(module.backbone, backend="eager")
        fit(module, TransferLearning(source(), freeze="backbone"))
        weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}
        assert {name for name in weights if not torch.equal(weights[name], source()[name])} == set(HEAD)


class TestManual:
    def test_two_optimizers(self) -> None:
        class Two(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def configure_optimizers(self) -> Any:
                return [
                    torch.optim.SGD(self.backbone.parameters(), lr=0.1),
                    torch.optim.Adam(self.head.parameters(), lr=0.1),
                ]

            def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
                loss = self._loss(batch)
                for optimizer in self.optimizers():  # type: ignore[union-attr]
                    optimizer.zero_grad()
                self.manual_backward(loss)
                for optimizer in self.optimizers():  # type: ignore[union-attr]
                    optimizer.step()

        module, spy = Two(), Epochs()
        transfer = TransferLearning(source(), strategy="gradual", layer_decay=0.5, l2_sp=0.1, warmup_epochs=1)
        trainer = fit(module, transfer, spy)
        assert spy.trained == [HEAD, TOP + HEAD, LOW + TOP + HEAD, LOW + TOP + HEAD]
        assert spy.rates[0] == [0.025, 0.05, 0.1]
        assert [len(o.param_groups) for o in trainer.optimizers] == [2, 1]
        assert moved(module, source()) >= source().keys() - {"backbone.0.bias", "backbone.3.bias"}  # no gradient


class TestL2SP:
    def test_it_pulls_towards_the_start_and_is_logged(self) -> None:
        distances, logged = [], []
        for weight in (None, 0.5, 5.0):
            module = Tuned(lr=0.02)
            trainer = fit(module, TransferLearning(source(), l2_sp=weight, reinit="head"), max_epochs=6,
                          log_every_n_steps=1)  # fmt: skip
            start = source()["backbone.0.weight"]
            distances.append(float((module.backbone[0].weight.detach() - start).square().sum()))
            logged.append(trainer.callback_metrics.get("l2_sp"))
        assert distances[0] > distances[1] > distances[2]
        assert logged[0] is None and float(logged[1]) > 0

    def test_the_equation(self) -> None:
        class Plain(Tuned):
            def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
                return torch.optim.SGD(parameters, lr=0.1)

        class Written(Plain):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                start = source()
                names = [name for name, _ in self.named_parameters() if not name.startswith("head")]
                omega = sum((self.get_parameter(name) - start[name]).square().sum() for name in names)
                return self._loss(batch) + 0.3 * omega

        module, expected = Plain(), Written()
        fit(module, TransferLearning(source(), l2_sp=0.3, reinit="head"))
        fit(expected, TransferLearning(source(), reinit="head"))
        torch.testing.assert_close(module.state_dict(), expected.state_dict())

    def test_weights_that_are_not_dense(self) -> None:
        class Words(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.words = nn.Embedding(3, 4, sparse=True)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x + self.words(torch.zeros(len(x), dtype=torch.long)))

            def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
                return torch.optim.SGD(parameters, lr=0.1)

        with pytest.raises(TransferError, match=r"got a sparse one for `words.weight`"):
            fit(Words(), TransferLearning(l2_sp=0.1))


class TestObject:
    def test_copies_and_pickles(self) -> None:
        transfer = TransferLearning(source(), freeze="backbone", l2_sp=0.1)
        fit(Tuned(), copy.deepcopy(transfer), max_epochs=1)

        class During(L.Callback):
            def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
                for other in (copy.deepcopy(transfer), pickle.loads(pickle.dumps(transfer))):
                    assert other._run is None and other.report is not None
                copy.deepcopy(trainer.lightning_module.backbone)

        fit(Tuned(), transfer, During(), max_epochs=1)
        module = Tuned()
        fit(module, pickle.loads(pickle.dumps(transfer)), max_epochs=1)
        assert moved(module, source()) == set(HEAD)

    def test_the_checkpoint_is_plain(self, tmp_path: Path) -> None:
        module, saver = Tuned(), ModelCheckpoint(tmp_path)
        fit(module, TransferLearning(source(), strategy="gradual", l2_sp=0.1, layer_decay=0.5), saver,
            enable_checkpointing=True)  # fmt: skip
        saved = torch.load(saver.best_model_path, weights_only=True)
        assert saved["state_dict"].keys() == source().keys()
        state = saved["callbacks"]["lightning_autoarch.TransferLearning"]
        assert state["epochs"] == 4 and set(state["start"]) == {name for name, _ in module.named_parameters()}

    def test_without_training_it_does_nothing(self) -> None:
        module = Tuned()
        before = copy.deepcopy(module.state_dict())
        trainer = L.Trainer(**QUIET, callbacks=[TransferLearning(source(), freeze="backbone")])
        trainer.validate(module, loaders()[1], verbose=False)
        assert moved(module, before) == set()

    def test_fast_dev_run(self) -> None:
        transfer = TransferLearning(source(), strategy="lp_ft", freeze="head", thawing=Thawing(unfreeze={5: "head"}))
        with pytest.raises(TransferError, match="everything is frozen"):
            fit(Tuned(), transfer, fast_dev_run=True)
        fit(
            Tuned(),
            TransferLearning(source(), freeze="backbone", thawing=Thawing(unfreeze={5: "backbone"})),
            fast_dev_run=True,
        )

    def test_after_an_error_the_module_is_as_it_was(self) -> None:
        class Broken(Tuned):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                raise RuntimeError("on purpose")

        module = Broken()
        with pytest.raises(RuntimeError, match="on purpose"):
            fit(module, TransferLearning(source(), freeze="backbone"))
        assert all(p.requires_grad for p in module.parameters())
        assert not module.backbone[1]._forward_pre_hooks

    def test_from_a_config(self) -> None:
        parser = pytest.importorskip("jsonargparse").ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(L.Callback, "callback")
        config = """
            callback:
              class_path: lightning_autoarch.callbacks.transfer.learning.TransferLearning
              init_args:
                checkpoint: pretrained.ckpt
                rules: [[a, b]]
                freeze: backbone
                thawing: {unfreeze: {2: [backbone.3], 4: backbone}}
                lr_scale: {head: 2}
                layer_decay: 0.75
                lora: null
        """
        transfer = parser.instantiate(parser.parse_string(config)).callback
        assert transfer.checkpoint == "pretrained.ckpt"
        assert transfer.thawing.unfreeze == {2: ["backbone.3"], 4: "backbone"}

    def test_half_precision_and_accumulation(self) -> None:
        for precision in ("bf16-mixed", "bf16-true"):
            module = Tuned()
            transfer = TransferLearning(source(), strategy="gradual", l2_sp=0.1, warmup_epochs=1, layer_decay=0.5)
            fit(module, transfer, precision=precision, accumulate_grad_batches=2, gradient_clip_val=1.0)
            assert len(moved(module.float(), source())) > 12


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"strategy": "partial"}, "`strategy` to be one of 'full', 'linear_probe'"),
            ({"layer_decay": 0.0}, r"`layer_decay` to be a number in \(0, 1\]"),
            ({"layer_decay": 1.1}, r"`layer_decay` to be a number in \(0, 1\]"),
            ({"lr_scale": {"head": 0}}, r"lr_scale\['head'\]"),
            ({"lr_scale": [1]}, "`lr_scale` to be {pattern: factor}"),
            ({"l2_sp": -1.0}, "`l2_sp` to be a number > 0"),
            ({"warmup_epochs": -1}, "`warmup_epochs`"),
            ({"probe_epochs": 0, "strategy": "lp_ft"}, "`probe_epochs` to be an int >= 1"),
            ({"probe_epochs": 1}, "requires `strategy="),
            ({"lora": {"r": 2}}, "requires `strategy="),
            ({"strategy": "lora", "l2_sp": 0.1}, "does not move them"),
            ({"unfreeze": {0: "head"}}, ">= 1, got 0"),
            ({"freeze": 3}, "`freeze` to be patterns"),
        ],
    )
    def test_of_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(TransferError, match=message):
            TransferLearning(**grouped(options))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"freeze": "backbones"}, r"`backbones` of `freeze` matches no parameter.*Did you mean `backbone`"),
            ({"unfreeze": {1: "heads"}}, r"of `unfreeze\[1\]` matches no parameter.*Did you mean `head`"),
            ({"lr_scale": {"hed": 2.0}}, r"`hed` of `lr_scale`.*Did you mean `head`"),
            ({"reinit": "hed"}, r"`hed` of `reinit`.*Did you mean `head`"),
            ({"head": "hed"}, r"`hed` of `head`.*Did you mean `head`"),
            ({"unfreeze": {1: "head"}}, "to name something that is frozen until then"),
            ({"freeze": "head", "unfreeze": {4: "head"}}, "below 4, got 4"),
            ({"freeze": ["backbone", "head"]}, "everything is frozen"),
        ],
    )
    def test_before_training(self, options: dict[str, Any], message: str) -> None:
        module = Tuned()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(TransferError, match=message):
            fit(module, TransferLearning(source(), **grouped(options)))
        assert moved(module, before) == set() and all(p.requires_grad for p in module.parameters())

    def test_a_trained_parameter_that_no_optimizer_has(self) -> None:
        with pytest.raises(TransferError, match=r"`backbone.0.weight`.* and 5 more in none: it would never learn"):
            fit(Tuned(optimizer="head"), TransferLearning(source()))

    def test_a_parameter_in_two_optimizers(self) -> None:
        class Twice(Tuned):
            def configure_optimizers(self) -> Any:
                self.automatic_optimization = False
                return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.head.parameters(), lr=0.1)]

        with pytest.raises(TransferError, match=r"`head.weight`, `head.bias` in several"):
            fit(Twice(), TransferLearning(source()))

    def test_a_module_without_parameters(self) -> None:
        class Empty(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.head = nn.Sequential(), nn.Identity()

        with pytest.raises(TransferError, match="parameters to fine-tune, got none in Empty"):
            fit(Empty(), TransferLearning())

    def test_one_block_has_no_head(self) -> None:
        class One(Tuned):
            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.head = nn.Sequential(), nn.Linear(4, 1)

        with pytest.raises(TransferError, match="a head and something below it in One"):
            fit(One(), TransferLearning(strategy="gradual"))

    def test_strategies_that_shard(self) -> None:
        trainer = L.Trainer(**QUIET, max_epochs=1)
        trainer.strategy.__class__ = FSDPStrategy
        with pytest.raises(TransferError, match="FSDPStrategy shards them"):
            TransferLearning().setup(trainer, Tuned(), "fit")
