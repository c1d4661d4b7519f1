"""Values of an architecture as a config has them."""

from __future__ import annotations

import functools

import cli_nets
import numpy as np
import pytest
from torch import nn

from lightning_autoarch import Repeat, SearchError, SearchSpace
from lightning_autoarch.cli.winner import as_config, check_config


def test_objects_become_what_a_config_reads_back() -> None:
    given = {"act": cli_nets.Act.tanh, "kind": nn.ReLU, "sizes": (3, [np.int64(5)]), "more": {1: None, "f": 0.5}}
    assert as_config("all", given) == {
        "act": "tanh",
        "kind": "torch.nn.ReLU",
        "sizes": [3, [5]],
        "more": {1: None, "f": 0.5},
    }


def test_what_a_config_cannot_say_is_told_before_the_search() -> None:
    check_config(SearchSpace({"a": [nn.ReLU, None]}).parameters)
    space = SearchSpace({"a": Repeat(1, 2, {"b": [functools.partial(nn.LeakyReLU, 0.1)]})})
    with pytest.raises(SearchError, match=r"`a\.b` of the space has the choice .*which cannot be written in a config"):
        check_config(space.parameters)
