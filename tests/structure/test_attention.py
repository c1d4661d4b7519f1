"""HeadAttention is nn.MultiheadAttention, and what is left of it when heads or channels go."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from channel_nets import SelfAttention, call, encoder, randomised, unread
from torch import Tensor, nn

from lightning_autoarch.structure.attention import HeadAttention, as_heads_
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups

OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    {"kdim": 6, "vdim": 5},
    {"kdim": 6, "vdim": 5, "bias": False, "batch_first": True},
]


def pair(**options: Any) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 4, **options).eval()
    randomised(layer)
    other = copy.deepcopy(layer)
    as_heads_(other)
    assert type(other) is HeadAttention
    return layer, other


def qkv(options: dict[str, Any], batched: bool = True) -> list[Tensor]:
    shapes = [(3, 2, 12), (5, 2, options.get("kdim", 12)), (5, 2, options.get("vdim", 12))]
    if not batched:
        return [torch.randn(length, size) for length, _, size in shapes]
    return [torch.randn(*((n, length) if options.get("batch_first") else (length, n)), s) for length, n, s in shapes]


MASKS: list[dict[str, Any]] = [
    {},
    {"attn_mask": torch.randn(3, 5)},
    {"attn_mask": torch.randn(8, 3, 5) > 1},
    {"key_padding_mask": torch.tensor([[False] * 5, [False, False, True, True, True]])},
    {"key_padding_mask": torch.randn(2, 5), "attn_mask": torch.randn(3, 5)},
    {"attn_mask": torch.ones(3, 5).triu(2).bool(), "is_causal": True},
    {"average_attn_weights": False},
    {"need_weights": False, "attn_mask": torch.randn(3, 5)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masks", MASKS, ids=lambda m: "+".join(m) or "plain")
def test_the_same_as_torch(options: dict[str, Any], masks: dict[str, Any]) -> None:
    layer, other = pair(**options)
    inputs = qkv(options)
    for got, want in zip(other(*inputs, **masks), layer(*inputs, **masks), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_a_batch(options: dict[str, Any]) -> None:
    layer, other = pair(**options)
    inputs = qkv(options, batched=False)
    padding = torch.tensor([False, False, False, True, True])
    for got, want in zip(other(*inputs, padding), layer(*inputs, padding), strict=True):
        torch.testing.assert_close(got, want)


def test_causal_without_a_mask_is_refused_as_by_torch() -> None:
    _, other = pair()
    with pytest.raises(RuntimeError, match="attn_mask"):
        other(*qkv({}), is_causal=True)


def test_a_removed_head_leaves_a_layer_of_its_own_kind() -> None:
    module, inputs = SelfAttention().eval(), torch.randn(2, 5, 3)
    remove_channels_(module, inputs, {"attend.in_proj_weight": [0, 2, 3]})
    layer = module.attend
    assert isinstance(layer, HeadAttention) and isinstance(layer, nn.MultiheadAttention)
    assert (layer.embed_dim, layer.num_heads, layer.head_dim) == (12, 3, 3)
    assert layer.in_proj_weight.shape == (27, 12) and layer.out_proj.weight.shape == (12, 9)
    again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(call(again, inputs), call(module, inputs))


def test_sizes_that_torch_can_have_stay_torchs() -> None:
    module, inputs = SelfAttention().eval(), torch.randn(2, 5, 3)
    remove_channels_(module, inputs, {"attend.in_proj_weight": [0, 2], "embed.weight": [1, 2, 3, 7, 8, 9]})
    assert type(module.attend) is nn.MultiheadAttention
    assert (module.attend.embed_dim, module.attend.num_heads, module.attend.head_dim) == (6, 2, 3)
    assert call(module, inputs).shape == (2, 5, 2)


def test_a_smaller_stream_is_the_layer_built_with_the_kept_weights() -> None:
    """A norm is taken over the stream, so the oracle is a network of the kept weights, put together by hand."""
    torch.manual_seed(0)
    module = randomised(encoder(layers=1)).eval()
    inputs, keep = torch.randn(2, 5, 3), [0, 1, 3, 4, 5, 7, 8, 9, 11]
    small = nn.Sequential(nn.Linear(3, 9), encoder(layers=1)[1], nn.Linear(9, 2)).eval()
    layer = nn.TransformerEncoderLayer(9, 3, 20, batch_first=True)
    small[1].layers[0] = layer.eval()
    rows = [row for part in range(3) for row in range(12 * part, 12 * part + 9)]  # the first three heads
    state = {}
    for name, tensor in module.state_dict().items():
        for dim in range(tensor.dim()):
            if tensor.shape[dim] == 36:
                tensor = tensor.index_select(dim, torch.tensor(rows))
            elif tensor.shape[dim] == 12:
                inner = name.endswith("out_proj.weight") and dim == 1
                tensor = tensor.index_select(dim, torch.tensor(range(9)) if inner else torch.tensor(keep))
        state[name] = tensor
    small.load_state_dict(state)
    remove_channels_(module, inputs, {"0.weight": keep, "1.layers.0.self_attn.in_proj_weight": [0, 1, 2]})
    torch.testing.assert_close(call(module, inputs), call(small, inputs))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # the dense network takes that path
@pytest.mark.parametrize("grad", [False, True])
def test_the_fused_path_of_an_encoder_is_never_wrong(grad: bool) -> None:
    torch.manual_seed(0)
    dense = randomised(encoder()).eval()
    inputs, padding = torch.randn(2, 5, 3), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    groups = channel_groups(dense, inputs)
    keep = {
        "1.layers.0.self_attn.in_proj_weight": [0, 3],
        "1.layers.1.linear1.weight": [1, 2, 5, 6, 19],
    }
    masked, module = unread(dense, groups, keep), copy.deepcopy(dense)
    remove_channels_(module, inputs, keep)
    assert module[1].use_nested_tensor is False
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(call(module, inputs), call(masked, inputs), rtol=1e-4, atol=1e-5)
        got, want = (net[1](net[0](inputs), src_key_padding_mask=padding) for net in (module, masked))
        torch.testing.assert_close(got[~padding], want[~padding], rtol=1e-4, atol=1e-5)
