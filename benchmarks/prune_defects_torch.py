"""Defects of torch.nn.utils.prune: a mask as a buffer, the weight as `weight_orig`, their product by a forward hook."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from conformance import Defect, Seen, told
from harness import held, peak_on_cpu
from prune_defects import AfterBatch, Net, fit, linear_layers, steps, values, zeros
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune import BitMask, prune_
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.schedule import ConstantSparsity, OneShot, Step

LARGE = (2000, 4000)  # of a layer whose memory is measured
L1 = torch_prune.L1Unstructured


def global_unstructured(parameters: Any, amount: float = 0.5) -> None:
    torch_prune.global_unstructured(parameters, pruning_method=L1, amount=amount)


def scratch(prune: Callable[[nn.Linear], Any]) -> Seen:
    layer = nn.Linear(*LARGE, bias=False)
    each = peak_on_cpu(lambda: prune(layer)) / layer.weight.numel()
    return Seen(f"{each:.1f} bytes a weight at the peak", each <= 4)


def scratch_of_peer() -> Seen:
    return scratch(lambda layer: global_unstructured([(layer, "weight")]))


def scratch_of_ours() -> Seen:
    return scratch(lambda layer: prune_([layer.weight], sparsity=0.5))


def kept_by_peer() -> Seen:
    layer = nn.Linear(*LARGE, bias=False)
    plain = held(layer)
    torch_prune.l1_unstructured(layer, "weight", 0.5)
    return Seen(f"{held(layer) / plain:.2f} times the weights are kept", held(layer) <= 1.1 * plain)


def kept_by_ours() -> Seen:
    layer = nn.Linear(*LARGE, bias=False)
    plain = held(layer)
    masks = prune_([layer.weight], sparsity=0.5)
    size = held(layer) + sum(mask.words.nbytes for mask in masks)
    return Seen(f"{size / plain:.2f} times the weights are kept", size <= 1.1 * plain)


def nan_of_peer() -> Seen:
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    torch_prune.l1_unstructured(layer, "weight", 0.9)
    kept = bool(layer.weight_mask[0, 0])
    return Seen(f"no error; the NaN is {'kept' if kept else 'pruned'}", False)


def nan_of_ours() -> Seen:
    module = Net()
    with torch.no_grad():
        module.net[0].weight[0, 0] = float("nan")
    return told(lambda: fit(module, MagnitudePruning(ConstantSparsity(0.9))), PruneValueError, "net.0.weight")


def inf_of_peer() -> Seen:
    layer = nn.Linear(8, 8)
    torch_prune.l1_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig[layer.weight_mask == 0] = float("inf")
    layer(torch.zeros(1, 8))
    count = int(layer.weight.isnan().sum())
    return Seen(f"{count} of 64 weights are NaN", count == 0)


def inf_of_ours() -> Seen:
    layer = nn.Linear(8, 8)
    weights = MaskedWeights({"weight": layer.weight})
    weights.replace(prune_([layer.weight], sparsity=0.5))
    with torch.no_grad():
        layer.weight[~weights.masks[0].unpack()] = float("inf")
    weights.apply_()
    count = int((~layer.weight.isfinite()).sum())
    return Seen(f"{count} of 64 weights are NaN", count == 0)


def copy_of_peer() -> Seen:
    module = Net()
    global_unstructured(linear_layers(module))
    steps(module.net, torch.randn(4, 8))
    copy.deepcopy(module)
    return Seen("copied", True)


def copy_of_ours() -> Seen:
    shares: list[float] = []
    module, pruning = Net(), MagnitudePruning(ConstantSparsity(0.5))
    fit(module, pruning, AfterBatch(lambda _, own: shares.append(zeros(copy.deepcopy(own.net)))))
    copied = copy.deepcopy(pruning)
    fit(copy.deepcopy(module), copied)
    right = min(shares) == max(shares) == copied.sparsity == 0.5
    return Seen(f"copied in a fit; sparsity of the copies {min(shares):.2f}", right)


class Tied(Net):
    def __init__(self) -> None:
        first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        super().__init__(first, nn.ReLU(), second, nn.Linear(8, 2))
        second.weight = first.weight


def tied_of_peer() -> Seen:
    module = Tied()
    layers = linear_layers(module)[:2]
    torch_prune.global_unstructured(layers, pruning_method=torch_prune.RandomUnstructured, amount=0.5)
    differ = int((layers[0][0].weight_mask != layers[1][0].weight_mask).sum())
    return Seen(f"the two masks differ in {differ} of 64 weights", differ == 0)


def tied_of_ours() -> Seen:
    module, pruning = Tied(), MagnitudePruning(ConstantSparsity(0.5), criterion="random", exclude="net.3")
    fit(module, pruning)
    one = len(pruning.masks) == 1 and module.net[0].weight is module.net[2].weight
    return Seen(f"{len(pruning.masks)} mask, sparsity {pruning.sparsity:.2f}", one and pruning.sparsity == 0.5)


def generator_of_peer() -> Seen:
    global_unstructured(pair for pair in linear_layers(Net()))
    return Seen("pruned", True)


def generator_of_ours() -> Seen:
    module = Net()
    prune_((layer.weight for layer, _ in linear_layers(module)), sparsity=0.5)
    return Seen(f"pruned, sparsity {zeros(module):.2f}", zeros(module) == 0.5)


def drift_of_peer() -> Seen:
    module = Net()
    layers = linear_layers(module)
    optimizer = steps(module.net, torch.randn(16, 8))
    global_unstructured(layers)
    before = [layer.weight_orig.detach().clone() for layer, _ in layers]
    for _ in range(5):
        optimizer.zero_grad()
        module.net(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
    moved = max(
        float(((layer.weight_orig - old).abs() * (layer.weight_mask == 0)).max())
        for (layer, _), old in zip(layers, before, strict=True)
    )
    return Seen(f"masked weights moved by up to {moved:.3f}", moved == 0)


def drift_of_ours() -> Seen:
    largest: list[float] = []
    pruning = MagnitudePruning(OneShot(0.5, at=Step(4)))
    watch = AfterBatch(
        lambda *_: largest.extend(float((weight * ~keep).abs().max()) for weight, keep in values(pruning))
    )
    fit(Net(), pruning, watch)
    return Seen(f"masked weights moved by up to {max(largest):.3f}", max(largest) == 0 and pruning.sparsity == 0.5)


def stale_of_peer() -> Seen:
    module = Net()
    global_unstructured(layers := linear_layers(module))
    steps(module.net, torch.randn(16, 8))
    error = max(float((layer.weight - layer.weight_orig * layer.weight_mask).abs().max()) for layer, _ in layers)
    return Seen(f"after a step `weight` is off by up to {error:.4f}", error == 0)


def stale_of_ours() -> Seen:
    module, pruning = Net(), MagnitudePruning(ConstantSparsity(0.5))
    seen: list[float] = []
    fit(module, pruning, AfterBatch(lambda trainer, own: seen.append(zeros(own))))
    same = all(
        layer.weight is p for (layer, _), p in zip(linear_layers(module), pruning.weights.parameters, strict=True)
    )
    return Seen(f"`weight` is what is trained; zeros after each step {min(seen):.2f}", same and set(seen) == {0.5})


def compounding_of_peer() -> Seen:
    layer = nn.Linear(20, 20)
    reached = []
    for _ in range(3):
        torch_prune.l1_unstructured(layer, "weight", 0.5)
        reached.append(1 - float(layer.weight_mask.mean()))
    return Seen("sparsity " + ", ".join(f"{each:g}" for each in reached), reached == [0.5] * 3)


def compounding_of_ours() -> Seen:
    pruning, reached = MagnitudePruning(ConstantSparsity(0.5), every_n_steps=1), []
    fit(Net(), pruning, AfterBatch(lambda *_: reached.append(pruning.sparsity)), limit_train_batches=3)
    return Seen("sparsity " + ", ".join(f"{each:g}" for each in reached), reached == [0.5] * 3)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unsqueeze(1))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        sequence = x.unsqueeze(1).expand(-1, 3, -1)
        return self.head(self.attention(sequence, sequence, sequence)[0][:, 0])


def recurrent_of_peer() -> Seen:
    module = Recurrent()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        torch_prune.l1_unstructured(module.lstm, name, 0.5)
        torch_prune.remove(module.lstm, name)
    steps(module, torch.randn(4, 8))
    return Seen("trains", True)


def attention_of_peer() -> Seen:
    module = Attentive()
    torch_prune.l1_unstructured(module.attention, "in_proj_weight", 0.5)
    torch_prune.l1_unstructured(module.attention.out_proj, "weight", 0.5)
    steps(module, torch.randn(4, 8))
    return Seen("trains", True)


def trained(inner: nn.Module, names: list[str]) -> Seen:
    pruning = MagnitudePruning(ConstantSparsity(0.5), "layer", exclude="net.0.head")
    fit(Net(inner), pruning)
    reached = {name: 1 - mask.density() for name, mask in pruning.masks.items()}
    right = list(reached) == names and set(reached.values()) == {0.5}
    return Seen(f"trains; sparsity {pruning.sparsity:.2f} of {len(reached)} weights", right)


def recurrent_of_ours() -> Seen:
    return trained(Recurrent(), ["net.0.lstm.weight_ih_l0", "net.0.lstm.weight_hh_l0"])


def attention_of_ours() -> Seen:
    return trained(Attentive(), ["net.0.attention.in_proj_weight", "net.0.attention.out_proj.weight"])


def dtypes_of_peer() -> Seen:
    weight, mask = torch.randn(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.int64)
    methods = L1(amount=2), torch_prune.LnStructured(amount=1, n=2)
    dtypes = [str(method.compute_mask(weight, mask).dtype).removeprefix("torch.") for method in methods]
    return Seen(f"two methods give a mask of {' and of '.join(dtypes)}", len(set(dtypes)) == 1)


def dtypes_of_ours() -> Seen:
    weight = torch.arange(8.0)
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    masks = {prune_([weight.to(dtype)], sparsity=0.5)[0] for dtype in dtypes}
    return Seen(f"{len(masks)} mask for {len(dtypes)} dtypes of the weight", len(masks) == 1)


def custom_of_peer() -> Seen:
    layer, mask = nn.Linear(100, 100), torch.ones(100, 100)
    torch_prune.custom_from_mask(layer, "weight", mask)
    hooks = [value for hook in layer._forward_pre_hooks.values() for value in vars(hook).values()]
    masks = {each.data_ptr(): each.nbytes for each in (*hooks, *layer.buffers()) if isinstance(each, Tensor)}
    each = sum(masks.values()) / mask.numel()
    return Seen(f"{each:.3f} bytes a weight, in {len(masks)} masks", len(masks) == 1)


def custom_of_ours() -> Seen:
    layer, keep = nn.Linear(100, 100), torch.ones(100, 100, dtype=torch.bool)
    weights = MaskedWeights({"weight": layer.weight}, {"weight": BitMask.pack(keep)})
    each = sum(mask.words.nbytes for mask in weights.masks) / keep.numel()
    return Seen(f"{each:.3f} bytes a weight, in {len(weights.masks)} mask", len(weights.masks) == 1 and each < 0.13)


DEFECTS = [
    Defect("choosing over all layers takes ten times the weights' memory", scratch_of_peer, scratch_of_ours),
    Defect("a pruned module keeps its weights several times", kept_by_peer, kept_by_ours),
    Defect("a NaN is never pruned, nor reported", nan_of_peer, nan_of_ours),
    Defect("an infinity behind the mask gives NaN", inf_of_peer, inf_of_ours),
    Defect("deepcopy fails", copy_of_peer, copy_of_ours),
    Defect("tied weights get two masks", tied_of_peer, tied_of_ours),
    Defect("a generator of parameters crashes", generator_of_peer, generator_of_ours),
    Defect("momentum and decay move masked weights", drift_of_peer, drift_of_ours),
    Defect("`weight` is stale until the next forward", stale_of_peer, stale_of_ours),
    Defect("amounts compound: 0.5 three times", compounding_of_peer, compounding_of_ours),
    Defect("LSTM does not train after pruning", recurrent_of_peer, recurrent_of_ours),
    Defect("MultiheadAttention does not train while pruned", attention_of_peer, attention_of_ours),
    Defect("masks change their dtype with the method", dtypes_of_peer, dtypes_of_ours),
    Defect("a mask that is given is kept twice", custom_of_peer, custom_of_ours),
]
