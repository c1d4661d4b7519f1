"""One weight in several spellings: the module computes what the source computed, whichever of them is on which side."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.read.state_dicts import LazyStateDict
from lightning_autoarch.transfer.transfer_weights import transfer_weights

Wrap = Callable[[nn.Module], nn.Module]


def _old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer)


def _last_dim(layer: nn.Module) -> nn.Module:  # as the positional convolution of wav2vec 2.0
    return parametrizations.weight_norm(layer, dim=2)


def _old_last_dim(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer, dim=2)


def _pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.5)


PLAIN: Wrap = lambda layer: layer  # noqa: E731 - a spelling among others


def _net(wrap: Wrap, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(wrap(nn.Conv1d(4, 6, 3)), nn.ReLU(), nn.Conv1d(6, 2, 1)).eval()


X = torch.linspace(-1, 1, 2 * 4 * 8).reshape(2, 4, 8)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (_old_weight_norm, parametrizations.weight_norm),
        (parametrizations.weight_norm, _old_weight_norm),
        (_old_weight_norm, PLAIN),
        (parametrizations.weight_norm, PLAIN),
        (PLAIN, _old_weight_norm),
        (PLAIN, parametrizations.weight_norm),
        (_old_last_dim, _last_dim),
        (_last_dim, PLAIN),
        (PLAIN, _old_last_dim),
        (spectral_norm, parametrizations.spectral_norm),
        (parametrizations.spectral_norm, spectral_norm),
        (spectral_norm, PLAIN),
        (parametrizations.spectral_norm, PLAIN),
        (_pruned, PLAIN),
        (_pruned, _pruned),
        (_pruned, parametrizations.weight_norm),
    ],
)
def test_the_outputs_are_those_of_the_source(there: Wrap, here: Wrap) -> None:
    source, module = _net(there, 0), _net(here, 1)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    report = transfer_weights(module, source.state_dict(), on_mismatch="error")
    assert report.share == 1 and set(report.counts) == {"loaded"}
    torch.testing.assert_close(module(X), source(X))
    after = source.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_below_a_prefix_with_nothing_else_in_common() -> None:
    source, module = _net(_old_weight_norm, 0)[0], _net(parametrizations.weight_norm, 1)[0]
    state = {f"module.encoder.{name}": tensor for name, tensor in source.state_dict().items() if name != "bias"}
    report = transfer_weights(module, state)
    assert report.names("loaded") == ["parametrizations.weight.original0", "parametrizations.weight.original1"]
    assert torch.equal(module.weight, source.weight)


def test_what_is_read_a_tensor_at_a_time() -> None:
    source, module = _net(_pruned, 0), _net(PLAIN, 1)
    state = source.state_dict()
    likes = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    report = transfer_weights(module, LazyStateDict(likes, state.__getitem__))
    assert torch.equal(module(X), source(X)) and report.counts == {"loaded": 4}


def test_the_report_says_of_what() -> None:
    report = transfer_weights(_net(PLAIN, 1), _net(_pruned, 0))
    assert report["0.weight"].reason == "a pruned weight times its mask: `0.weight_orig`, `0.weight_mask`"


def test_a_length_that_is_none_is_not_taken_for_weight_norm() -> None:
    """Relative attention has biases called `u` and `v`, which are no parts of a weight."""
    module = nn.Module()
    module.pos_bias_u, module.pos_bias_v = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    report = transfer_weights(module, {"pos_bias_u": torch.ones(2), "pos_bias_v": torch.ones(2)})
    assert report.counts == {"loaded": 2} and module.pos_bias_v.tolist() == [1, 1]


class TestAttention:
    def apart(self) -> nn.Module:
        return nn.ModuleDict({name: nn.Linear(4, 4) for name in ("q_proj", "k_proj", "v_proj", "out_proj")})

    def test_queries_keys_and_values(self) -> None:
        whole, apart = nn.MultiheadAttention(4, 2), self.apart()
        assert transfer_weights(apart, whole).counts == {"loaded": 8}
        assert torch.equal(apart["k_proj"].weight, whole.in_proj_weight[4:8])
        other = nn.MultiheadAttention(4, 2)
        assert transfer_weights(other, apart).counts == {"loaded": 4}
        assert torch.equal(other.in_proj_weight, whole.in_proj_weight)
        assert torch.equal(other.in_proj_bias, whole.in_proj_bias)


class Renamed(nn.Module):
    """A layer that was called `gamma` in its first release, and counted from the other end."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(3))
        self.loads = 0

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 1) < 2 and f"{prefix}gamma" in state_dict:
            state_dict[f"{prefix}scale"] = 1 - state_dict.pop(f"{prefix}gamma")
        self.loads += 1
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)


class TestLoadingHooks:
    def test_an_override_is_asked_and_loads_nothing(self) -> None:
        module, gamma = nn.Sequential(Renamed(), nn.Linear(3, 2)), torch.tensor([0.0, 0.25, 1.0])
        state = {"0.gamma": gamma, **{f"1.{name}": tensor for name, tensor in nn.Linear(3, 2).state_dict().items()}}
        report = transfer_weights(module, state, on_mismatch="error")
        assert module[0].scale.tolist() == [1.0, 0.75, 0.0] and module[0].loads == 0
        assert (
            report.share == 1 and "unexpected" not in report.counts and list(state) == ["0.gamma", "1.weight", "1.bias"]
        )
        assert report["0.scale"].reason == "by the module's own loading hooks"

    @pytest.mark.parametrize("keep_versions", [True, False])
    def test_versions_are_those_of_the_source(self, keep_versions: bool, tmp_path: Any) -> None:
        """A hook that changes numbers, not names, depends on the version alone."""

        class Turned(Renamed):
            def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, *rest: Any) -> None:
                if metadata.get("version", 1) < 2:
                    state_dict[f"{prefix}scale"] = -state_dict[f"{prefix}scale"]
                super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

        source, module = nn.Sequential(Turned()), nn.Sequential(Turned())
        nn.init.constant_(source[0].scale, 5.0)
        state = source.state_dict() if keep_versions else dict(source.state_dict())
        torch.save(state, tmp_path / "weights.pt")
        for each in (state, tmp_path / "weights.pt", read_checkpoint(tmp_path / "weights.pt")):
            nn.init.zeros_(module[0].scale)
            transfer_weights(module, each)
            assert module[0].scale.tolist() == [5.0 if keep_versions else -5.0] * 3
        assert source[0].scale.tolist() == [5.0] * 3

    def test_a_hook_that_was_registered(self) -> None:
        module = nn.Sequential(nn.Linear(2, 2))
        seen = []

        def hook(layer: nn.Module, state: Any, prefix: str, *rest: Any) -> None:
            seen.append((prefix, sorted(state)))
            state[f"{prefix}weight"] = state.pop(f"{prefix}kernel").t()

        module[0].register_load_state_dict_pre_hook(hook)
        weight = torch.arange(4.0).reshape(2, 2)
        transfer_weights(module, {"net.0.kernel": weight, "net.0.bias": torch.zeros(2)})
        assert torch.equal(module[0].weight, weight.t()) and seen == [("0.", ["0.bias", "0.kernel"])]

    def test_one_that_fails_is_named_and_skipped(self) -> None:
        module = nn.Sequential(nn.Linear(2, 2))
        module[0].register_load_state_dict_pre_hook(lambda layer, state, prefix, *rest: state[f"{prefix}missing"])
        with pytest.warns(UserWarning, match=r"hooks of `0` \(Linear\) failed .* KeyError: '0.missing'"):
            report = transfer_weights(module, nn.Sequential(nn.Linear(2, 2)))
        assert report.share == 1

    def test_what_a_hook_leaves_out(self) -> None:
        module = nn.Linear(2, 2)
        module.register_load_state_dict_pre_hook(lambda layer, state, prefix, *rest: state.pop("old", None))
        report = transfer_weights(module, {**module.state_dict(), "old": torch.zeros(1)})
        assert report["old"].status == "unexpected" and "own loading hooks drop it" in report["old"].reason


class TestAdapters:
    @pytest.fixture(autouse=True)
    def peft(self) -> Any:
        return pytest.importorskip("peft", reason="peft is not installed")

    def adapted(self, module: nn.Module, peft: Any, **options: Any) -> nn.Module:
        config = peft.LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, **options)
        peft.inject_adapter_in_model(config, module)
        return module.eval()

    @pytest.mark.parametrize("prefix", ["", "base_model.model."])
    def test_they_are_added_to_their_weights(self, peft: Any, prefix: str) -> None:
        source = self.adapted(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), peft, target_modules=["0"])
        module, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(5, 4)
        state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
        with pytest.raises(TransferError, match=r"adapters .*lora_A.*: pass `lora_alpha`"):
            transfer_weights(module, state)
        report = transfer_weights(module, state, matching=Matching(lora_alpha=6))
        torch.testing.assert_close(module(x), source(x))
        assert report.counts == {"loaded": 4}
        transfer_weights(module, state, matching=Matching(lora_alpha=0))
        assert torch.equal(module[0].weight, source[0].base_layer.weight)

    def test_of_convolutions_and_embeddings(self, peft: Any) -> None:
        def net() -> nn.ModuleDict:
            return nn.ModuleDict({"words": nn.Embedding(9, 4), "conv": nn.Conv1d(4, 6, 3)})

        def run(net: nn.Module) -> Tensor:
            return net["conv"](net["words"](torch.arange(8)[None]).mT)  # type: ignore[index]

        source, module = self.adapted(net(), peft, target_modules=["words", "conv"]), net()
        assert transfer_weights(module, source, matching=Matching(lora_alpha=6)).share == 1
        torch.testing.assert_close(run(module), run(source))

    def test_untrained_ones_need_no_scale(self, peft: Any) -> None:
        source = nn.Sequential(nn.Linear(4, 2))
        plain = copy.deepcopy(source)
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"]), source)
        module = nn.Sequential(nn.Linear(4, 2))
        transfer_weights(module, source)
        assert torch.equal(module[0].weight, plain[0].weight)

    def test_plain_weights_into_an_adapted_module(self, peft: Any) -> None:
        module, source = self.adapted(nn.Sequential(nn.Linear(4, 2)), peft, target_modules=["0"]), nn.Linear(4, 2)
        report = transfer_weights(module, {f"0.{name}": tensor for name, tensor in source.state_dict().items()})
        assert torch.equal(module[0].base_layer.weight, source.weight) and report.counts == {"loaded": 2, "missing": 2}

    def test_dora_and_several_adapters_are_refused(self, peft: Any) -> None:
        module = nn.Sequential(nn.Linear(4, 2))
        source = self.adapted(nn.Sequential(nn.Linear(4, 2)), peft, target_modules=["0"], use_dora=True)
        with pytest.raises(TransferError, match="got DoRA"):
            transfer_weights(module, source, matching=Matching(lora_alpha=1))
        source = self.adapted(nn.Sequential(nn.Linear(4, 2)), peft, target_modules=["0"])
        second = {name.replace("default", "other"): tensor for name, tensor in source.state_dict().items()}
        with pytest.raises(TransferError, match="Expected one adapter for `0`, got several"):
            transfer_weights(module, {**source.state_dict(), **second}, matching=Matching(lora_alpha=1))

    @pytest.mark.parametrize("alpha", [-1, float("nan"), True, "8"])
    def test_a_scale_that_is_none(self, alpha: Any) -> None:
        with pytest.raises(TransferError, match="`lora_alpha` to be a number >= 0"):
            transfer_weights(nn.Linear(2, 2), nn.Linear(2, 2), matching=Matching(lora_alpha=alpha))
