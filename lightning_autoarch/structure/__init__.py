"""Coupled channels of a module: found once, then used to remove them and to widen them.

    module ─► trace ─► channel_groups ─► remove_channels_    fewer channels, in place
                                    └──► widen_              more channels, the same function
                                            └──► recipe_of ─► JSON ─► apply_recipe_    a new module of that shape

>>> import torch
>>> from torch import nn
>>> from lightning_autoarch.structure.graph import remove_channels_
>>> from lightning_autoarch.structure.groups import channel_groups
>>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
>>> images = torch.randn(1, 3, 8, 8)
>>> [(group.name, group.width) for group in channel_groups(net, images) if group.fixed is None]
[('0.weight', 8)]
>>> done = remove_channels_(net, images, {"0.weight": [0, 2, 5]})
>>> net[0], net[4].in_features, done.attributes["1"]
(Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1)), 108, {'num_features': 3})
"""
