"""2:4 weights handed to torch: what is checked first, what is refused; the conversion itself where a GPU is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass as packed,
)
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_to_dense_cutlass as unpacked,
)
from weight_lists import generator

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.tolerance import allowed, difference
from lightning_autoarch.prune import apply_masks_, nm_masks
from lightning_autoarch.training import sparse_kernels
from lightning_autoarch.training.sparse_kernels import is_two_of_four, to_semi_structured


def masked_(module: nn.Module) -> nn.Module:
    """Every Linear of it 2:4."""
    weights = [child.weight for child in module.modules() if type(child) is nn.Linear]
    apply_masks_(weights, nm_masks(weights))
    return module


def net(dtype: torch.dtype = torch.float16) -> nn.Module:
    torch.manual_seed(0)
    return masked_(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64, bias=False))).to(dtype).eval()


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """As if the CPU had the kernels: weights go through torch's own packing and back. What was converted."""
    seen: list[torch.Tensor] = []

    def convert(dense: torch.Tensor) -> torch.Tensor:
        seen.append(dense)
        return unpacked(*packed(dense))

    monkeypatch.setattr(sparse_kernels, "why_no_chip", lambda device: "")
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", convert)
    return seen


class TestConverted:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_every_two_of_four_weight(self, chip: list[torch.Tensor], dtype: torch.dtype) -> None:
        module = net(dtype)
        before = copy.deepcopy(module)
        x = torch.randn(5, 64, generator=generator(0)).to(dtype)
        assert to_semi_structured(module) == ["0.weight", "2.weight"] and len(chip) == 2
        assert torch.equal(module(x), before(x))
        assert not any(child.weight.requires_grad for child in module if hasattr(child, "weight"))

    def test_without_targets_the_others_stay_dense(self, chip: list[torch.Tensor]) -> None:
        module = net().append(nn.Linear(64, 64).half()).append(masked_(nn.Linear(64, 8)).half())
        dense = [module[3].weight, module[4].weight]
        assert to_semi_structured(module) == ["0.weight", "2.weight"]
        assert [module[3].weight, module[4].weight] == dense

    @pytest.mark.parametrize("targets", ["2", ["2.*"], "2.weight"])
    def test_targets(self, chip: list[torch.Tensor], targets: Any) -> None:
        assert to_semi_structured(net(), targets=targets) == ["2.weight"]

    def test_tied_linears_stay_tied(self, chip: list[torch.Tensor]) -> None:
        module = nn.Sequential(*(masked_(nn.Linear(64, 64)) for _ in range(2))).half()
        module[1].weight = module[0].weight
        assert to_semi_structured(module) == ["0.weight", "1.weight"] and len(chip) == 1
        assert module[0].weight is module[1].weight

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
    @pytest.mark.parametrize("padded", [False, True])
    def test_transformer_layers_leave_their_fused_path(
        self, chip: list[torch.Tensor], padded: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        module = masked_(nn.TransformerEncoder(layer, 2)).bfloat16().eval()
        x = torch.randn(3, 5, 32, generator=generator(0)).bfloat16()
        padding = torch.arange(5).expand(3, 5) > 2 if padded else None
        with torch.no_grad():
            before = module(x, src_key_padding_mask=padding)
            assert len(to_semi_structured(module)) == 4
            monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", None)  # raises when it is called
            after = module(x, src_key_padding_mask=padding)[:, : before.shape[1]]
        valid = slice(None, 3 if padded else None)
        assert difference(after[:, valid], before[:, valid]) <= allowed(before)


class TestRefused:
    def test_what_is_not_two_of_four(self, chip: list[torch.Tensor]) -> None:
        module = net()
        with torch.no_grad():
            module[2].weight[5, 8:12] = 1
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(PruneValueError, match=r"`2\.weight` .*it is not 2:4"):
            to_semi_structured(module, targets=["0", "2"])
        assert not chip and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert to_semi_structured(module) == ["0.weight"]

    @pytest.mark.parametrize(
        ("module", "reason"),
        [
            (net(torch.float32), r"dtype is torch\.float32.*module\.half\(\)"),
            (masked_(nn.Linear(64, 8)).half(), r"shape is \(8, 64\).*multiples of \(16, 16\)"),
            (masked_(nn.Linear(8, 64)).half(), r"shape is \(64, 8\).*multiples"),
            (nn.Linear(64, 64).half(), "is not 2:4"),
            (nn.Conv1d(64, 64, 1), "Expected an nn.Linear in Conv1d"),
        ],
    )
    def test_what_torch_does_not_support(self, chip: list[torch.Tensor], module: nn.Module, reason: str) -> None:
        with pytest.raises(PruneValueError, match=reason):
            to_semi_structured(module)

    def test_cutlass_asks_for_other_multiples(self, chip: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        module = masked_(nn.Linear(48, 48)).half()
        monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensor, "_FORCE_CUTLASS", True)
        with pytest.raises(PruneValueError, match=r"multiples of \(32, 64\)"):
            to_semi_structured(module)

    def test_tied_to_an_embedding(self, chip: list[torch.Tensor]) -> None:
        module = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 64, bias=False)).half()
        masked_(module)
        module[0].weight = module[1].weight
        with pytest.raises(PruneValueError, match=r"`1\.weight` .*tied to a layer that is no Linear"):
            to_semi_structured(module)

    def test_a_pattern_without_a_match(self, chip: list[torch.Tensor]) -> None:
        with pytest.raises(PruneValueError, match="`head` of `targets` matches none"):
            to_semi_structured(net(), targets="head")

    def test_a_conversion_that_changes_the_output(
        self, chip: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = net()
        first = module[0].weight
        monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda w: w if w.shape[0] == 128 else w.roll(1))
        with pytest.raises(PruneValueError, match=r"The output of `2\.weight` differs by .* allowed is"):
            to_semi_structured(module)
        assert module[0].weight is first

    def test_a_chip_that_torch_has_no_kernel_for(
        self, chip: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def convert(dense: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("cuSPARSELt not supported on your machine.\nMore lines")

        monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", convert)
        with pytest.raises(PruneValueError, match=r"cannot convert `0\.weight` on cpu: cuSPARSELt not supported.*\.$"):
            to_semi_structured(net())


class TestChip:
    def test_no_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(PruneValueError, match=r"NVIDIA GPU of compute capability 8\.0.*sees no CUDA device"):
            to_semi_structured(net())

    def test_on_the_cpu_beside_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(PruneValueError, match=r"it is on cpu: `module\.cuda\(\)`"):
            to_semi_structured(net())

    @pytest.mark.parametrize(("capability", "reason"), [((7, 5), "Turing has 7.5"), ((8, 0), ""), ((9, 0), "")])
    def test_capability(self, capability: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Turing")
        found = sparse_kernels.why_no_chip(torch.device("cuda", 0))
        assert found.endswith(reason) and bool(found) == bool(reason)


def test_two_of_four() -> None:
    weight = torch.tensor([[1.0, 0, 2, 0, 0, 0, 0, 0]])
    assert is_two_of_four(weight) and is_two_of_four(torch.zeros(0, 4))
    assert not is_two_of_four(weight.roll(2)[:, :6]) and not is_two_of_four(weight[0])
    assert not is_two_of_four(torch.tensor([[1.0, 1, float("nan"), 0]]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu(dtype: torch.dtype) -> None:
    if reason := sparse_kernels.why_no_chip(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip(reason)
    module = net(dtype).cuda()
    dense = copy.deepcopy(module)
    assert to_semi_structured(module) == ["0.weight", "2.weight"]
    assert isinstance(module[0].weight, torch.sparse.SparseSemiStructuredTensor)
    x = torch.randn(32, 64, device="cuda", dtype=dtype)
    with torch.no_grad():
        expected = dense(x)
        assert difference(module(x), expected) <= allowed(expected)
    assert to_semi_structured(dense, targets="0") == ["0.weight"]
    with pytest.raises(PruneValueError, match="already"):
        to_semi_structured(dense, targets="0")
