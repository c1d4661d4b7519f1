"""Which channels hang together: found once, used to remove them and to widen them.

    module ─► trace ─► channel_groups ─► remove_channels_    fewer channels, the module in place
                                    └──► widen_              more of them, the same function
                                            └──► recipe_of ─► JSON ─► apply_recipe_    a fresh module of that shape

>>> import torch
>>> from torch import nn
>>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
>>> images = torch.randn(1, 3, 8, 8)
>>> [(group.name, group.width) for group in channel_groups(net, images) if group.fixed is None]
[('0.weight', 8)]
>>> done = remove_channels_(net, images, {"0.weight": [0, 2, 5]})
>>> net[0], net[4].in_features, done.attributes["1"]
(Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1)), 108, {'num_features': 3})
"""

from lightning_autoarch.structure.calls import CallRecorder, Calls, ModuleCall, run_on
from lightning_autoarch.structure.followable import followable
from lightning_autoarch.structure.graph import ChannelGraph, remove_channels_
from lightning_autoarch.structure.groups import ChannelGroup, Member, channel_groups
from lightning_autoarch.structure.optimizer import carry_optimizer_state, check_carriable
from lightning_autoarch.structure.plan import Change
from lightning_autoarch.structure.recipe import apply_recipe_, chain_recipes, recipe_of
from lightning_autoarch.structure.resize import Resized
from lightning_autoarch.structure.trace import Trace, trace
from lightning_autoarch.structure.widen import widen_

__all__ = [
    "CallRecorder",
    "Calls",
    "Change",
    "ChannelGraph",
    "ChannelGroup",
    "Member",
    "ModuleCall",
    "Resized",
    "Trace",
    "apply_recipe_",
    "carry_optimizer_state",
    "chain_recipes",
    "channel_groups",
    "check_carriable",
    "followable",
    "recipe_of",
    "remove_channels_",
    "run_on",
    "trace",
    "widen_",
]
