"""Which channels hang together: found once, used to remove them and to widen them.

module ─► trace ─► channel_groups ─► remove_channels_    fewer channels, the module in place
                                └──► widen_              more of them, the same function
"""

from lightning_autoarch.structure.groups import ChannelGroup, Member, channel_groups
from lightning_autoarch.structure.optimizer import carry_optimizer_state
from lightning_autoarch.structure.plan import Change
from lightning_autoarch.structure.recipe import apply_recipe_, chain_recipes, recipe_of
from lightning_autoarch.structure.resize import Resized, remove_channels_
from lightning_autoarch.structure.trace import Trace, trace
from lightning_autoarch.structure.widen import widen_

__all__ = [
    "Change",
    "ChannelGroup",
    "Member",
    "Resized",
    "Trace",
    "apply_recipe_",
    "carry_optimizer_state",
    "chain_recipes",
    "channel_groups",
    "recipe_of",
    "remove_channels_",
    "trace",
    "widen_",
]
