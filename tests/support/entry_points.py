"""Lightning makes a Trainer in 1 ms instead of 8 ms.

Each Trainer reads the entry points of every installed distribution, to find callbacks that others have registered. A
test run makes thousands of Trainers, and installs nothing meanwhile.
"""

from __future__ import annotations

import functools

from lightning.fabric.utilities import registry


def read_entry_points_once() -> None:
    """Make all Trainers of this process share the entry points that the first one has read."""
    registry.entry_points = functools.cache(registry.entry_points)  # type: ignore[assignment]
