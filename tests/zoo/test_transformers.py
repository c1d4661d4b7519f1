"""Models of transformers as they are: configurations without weights, saved, changed, read again, trained, pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from zoo_nets import CLASSES, Wrapped, blocks, fit, images, moved, tokens, weights

from lightning_autoarch import (
    ArchitectureSearch,
    ChannelPruning,
    Int,
    MagnitudePruning,
    OneShot,
    TransferLearning,
    export,
)
from lightning_autoarch.callbacks.transfer.lora import merge_lora
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.transfer_weights import transfer_weights

transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra `zoo` has it")

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": CLASSES,
}  # fmt: skip


def bert_config(**options: Any) -> Any:
    return transformers.BertConfig(**{**SIZES, "vocab_size": 50, "max_position_embeddings": 16, **options})


def bert(**options: Any) -> nn.Module:
    return transformers.BertForSequenceClassification(bert_config(**options))


def vit(**options: Any) -> nn.Module:
    config = transformers.ViTConfig(**{**SIZES, "image_size": 16, "patch_size": 4, **options})
    return transformers.ViTForImageClassification(config)


def gpt2(**options: Any) -> nn.Module:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16, "num_labels": CLASSES}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**{**sizes, **ends, **options}))


MODELS: dict[str, tuple[Any, Tensor]] = {"bert": (bert, tokens()), "vit": (vit, images()), "gpt2": (gpt2, tokens())}


def logits(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(x).logits


class TestSaved:
    def test_shards_of_a_bare_model_into_a_wrapped_classifier(self, tmp_path: Path) -> None:
        source = transformers.BertModel(bert_config())
        source.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        module = Wrapped(bert(), tokens())
        report = transfer_weights(module, tmp_path)
        assert set(report.names("missing")) == {"model.classifier.weight", "model.classifier.bias"}
        assert not moved(module.model.bert, weights(source))

    def test_a_masked_language_model_into_a_classifier(self, tmp_path: Path) -> None:
        source = transformers.BertForMaskedLM(bert_config())
        source.save_pretrained(tmp_path)
        module = Wrapped(bert(), tokens())
        report = transfer_weights(module, tmp_path)
        assert all("pooler" in name or "classifier" in name for name in report.names("missing"))
        assert all(name.startswith("cls.predictions.") for name in report.names("unexpected"))
        assert moved(module.model.bert.encoder, weights(source.bert.encoder)) == set()

    def test_classes_of_the_old_head(self, tmp_path: Path) -> None:
        (source := bert()).save_pretrained(tmp_path)
        module = Wrapped(bert(num_labels=3), tokens())
        transfer_weights(module, tmp_path, matching=Matching(classes={4: 0, 1: 2}))
        expected = source.classifier.weight[[4, 1]]
        assert torch.equal(module.model.classifier.weight[[0, 2]], expected)

    def test_another_image_size_and_channels_from_a_checkpoint_of_lightning(self, tmp_path: Path) -> None:
        module = Wrapped(vit(), images())
        save = ModelCheckpoint(tmp_path, filename="last")
        fit(module, images(), save, enable_checkpointing=True)
        x = images(24, channels=1)
        larger = Wrapped(vit(image_size=24, num_channels=1, num_labels=3), x)
        report = transfer_weights(larger, tmp_path / "last.ckpt")
        assert report.counts == {"loaded": 36, "interpolated": 2, "skipped": 2}
        assert larger(x).shape == (8, 3)

    def test_more_tokens_and_positions(self) -> None:
        source, module = bert(), bert(vocab_size=60, max_position_embeddings=24)
        report = transfer_weights(module, source, on_mismatch="slice")
        assert report.counts == {"loaded": 39, "sliced": 2}
        words = module.bert.embeddings.word_embeddings.weight
        assert torch.equal(words[:50], source.bert.embeddings.word_embeddings.weight)

    @pytest.mark.parametrize(
        ("make", "options", "x"),
        [
            (bert, {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}, tokens()),
            (vit, {"hidden_size": 64, "num_attention_heads": 4}, images()),
            (gpt2, {"n_inner": 160}, tokens()),
        ],
        ids=MODELS,
    )
    def test_wider_it_computes_the_same(self, make: Any, options: dict[str, Any], x: Tensor) -> None:
        source, module = make(), make(**options)
        transfer_weights(module, source, on_mismatch="widen", matching=Matching(example_inputs=x))
        torch.testing.assert_close(logits(module, x), logits(source, x))

    @pytest.mark.parametrize(
        ("make", "options", "x"), [(vit, {"num_hidden_layers": 4}, images()), (gpt2, {"n_layer": 4}, tokens())]
    )
    def test_deeper_it_computes_the_same(self, make: Any, options: dict[str, Any], x: Tensor) -> None:
        source, module = make(), make(**options)
        assert transfer_weights(module, source).names("identity")
        torch.testing.assert_close(logits(module, x), logits(source, x))

    def test_what_widen_cannot_keep_names_the_reason(self) -> None:
        with pytest.raises(TransferError, match="a norm or mean is taken over them"):
            transfer_weights(
                bert(hidden_size=48), bert(), on_mismatch="widen", matching=Matching(example_inputs=tokens())
            )


class TestFineTuned:
    def test_blocks_are_the_layers(self) -> None:
        embeddings, *layers, pooler, head = blocks(bert(), 4)
        assert len(embeddings) == 5 and all(path.startswith("bert.embeddings.") for path in embeddings)
        assert layers == [["bert.encoder.layer.0"], ["bert.encoder.layer.1"]]
        assert pooler == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
        assert head == ["classifier.bias", "classifier.weight"]

    @pytest.mark.parametrize("strategy", ["full", "linear_probe", "lp_ft", "gradual", "lora"])
    @pytest.mark.parametrize("name", MODELS)
    def test_strategies(self, name: str, strategy: Any) -> None:
        if strategy == "lora":
            pytest.importorskip("peft", reason="peft is not installed: the extra `test` has it")
        make, x = MODELS[name]
        module, start = Wrapped(make(), x), weights(make())
        head = "score" if name == "gpt2" else "classifier"
        transfer = TransferLearning(start, strategy=strategy, reinit=[f"model.{head}"])
        fit(module, x, transfer)
        assert transfer.report is not None and transfer.report.share > 0.9
        if strategy == "lora":
            assert any("lora_" in path for path, _ in module.named_parameters())
            merge_lora(module)
        below = {path for path in moved(module.model, start) if not path.startswith(head)}
        assert bool(below) == (strategy != "linear_probe")

    def test_layer_decay_counts_from_the_head_to_the_embeddings(self) -> None:
        module = Wrapped(vit(), images())
        trainer = fit(module, images(), TransferLearning(vit(), layer_decay=0.5), max_epochs=1)
        groups = trainer.optimizers[0].param_groups
        names = {id(p): name for name, p in module.named_parameters()}
        found = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
        rates = {lr: {name for name, its in found.items() if its == lr} for lr in found.values()}
        first, second, third, fourth = (rates[0.05 * 0.5**depth] for depth in (3, 2, 1, 0))
        assert len(rates) == 4 and all("embeddings" in name for name in first)
        assert any("position_embeddings" in name for name in first) and any("cls_token" in name for name in first)
        assert all(".0." in name for name in second) and all(".0." not in name for name in third)
        assert fourth == {"model.classifier.weight", "model.classifier.bias"}

    def test_of_tied_embeddings_the_positions_are_not_the_head(self) -> None:
        module = Wrapped(transformers.BertForMaskedLM(bert_config()), tokens())
        start = weights(module.model)
        fit(module, tokens(), TransferLearning(strategy="linear_probe"))
        assert moved(module.model, start) <= {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"}


class TestPruned:
    @pytest.mark.parametrize("name", MODELS)
    def test_weights(self, name: str) -> None:
        make, x = MODELS[name]
        module = Wrapped(make(), x)
        fit(module, x, MagnitudePruning(OneShot(0.8)))
        layers = [p for path, p in module.named_parameters() if p.dim() > 1 and ("layer" in path or ".h." in path)]
        assert len(layers) == (8 if name == "gpt2" else 12)
        assert all((p == 0).float().mean() > 0.5 for p in layers)

    @pytest.mark.parametrize("name", MODELS)
    def test_channels(self, name: str) -> None:
        make, x = MODELS[name]
        module = Wrapped(make(**({"n_layer": 1} if name == "gpt2" else {"num_hidden_layers": 1})), x)
        before = sum(p.numel() for p in module.parameters())
        fit(module, x, ChannelPruning(0.5), max_epochs=1)
        assert sum(p.numel() for p in module.parameters()) < 0.7 * before

    def test_a_size_in_the_code_is_named(self) -> None:
        sizes = {**SIZES, "num_hidden_layers": 1, "vocab_size": 50, "pad_token_id": 0}
        module = Wrapped(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)), tokens())
        before = sum(p.numel() for p in module.parameters())
        with pytest.warns(
            UserWarning, match=r"v_proj.* stay as they are.*`view` in `model\.model\.layers\.0\.self_attn`"
        ):
            fit(module, tokens(), ChannelPruning(0.5), max_epochs=1)
        assert sum(p.numel() for p in module.parameters()) < before


class Searched(Wrapped):
    """A BERT whose sizes are arguments."""

    def __init__(self, depth: int = 1, heads: int = 2) -> None:
        super().__init__(bert(num_hidden_layers=depth, num_attention_heads=heads, hidden_size=16 * heads), tokens())
        self.save_hyperparameters()


def test_searched(tmp_path: Path) -> None:
    module = Searched()
    search = ArchitectureSearch(
        {"depth": Int(1, 3), "heads": Int(1, 3)}, monitor="val_loss", n_trials=3, limits={"params": 20_000},
        sampler="random", trial={"inherit": "best", "trainer": {"max_epochs": 1}},
    )  # fmt: skip
    fit(module, tokens(), search, max_epochs=1, default_root_dir=tmp_path)
    assert search.best_architecture == dict(module.hparams)
    assert sum(p.numel() for p in module.parameters()) <= 20_000
    assert len(module.model.bert.encoder.layer) == module.hparams["depth"]


@pytest.mark.parametrize(("name", "suffix"), [("vit", "onnx"), ("bert", "pt2"), ("gpt2", "sparse.safetensors")])
def test_exported(name: str, suffix: str, tmp_path: Path) -> None:
    make, x = MODELS[name]
    report = export(Wrapped(make(), x), tmp_path / f"net.{suffix}")
    assert report.max_difference is not None and report.max_difference < 1e-4


def test_a_pretrained_directory_of_what_was_tuned(tmp_path: Path) -> None:
    """The way back: what transformers saves of the module, it loads; so do we."""
    module = Wrapped(bert(), tokens())
    fit(module, tokens(), MagnitudePruning(OneShot(0.8)), max_epochs=1)
    module.model.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    assert not moved(again, weights(module.model))
    assert set(read_checkpoint(tmp_path)) == set(module.model.state_dict())
