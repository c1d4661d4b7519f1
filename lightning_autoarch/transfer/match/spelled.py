"""A source in the spelling of a module: which of its tensors, or what made of them, each tensor of the module takes.

names.py       which leading path is another here
loading.py     what the modules' own loading hooks make of it
adapters.py    low-rank adapters added to their weights
spellings.py   weight norm, spectral norm, masks, attention
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_autoarch.transfer.match.adapters import merge_adapters
from lightning_autoarch.transfer.match.loading import run_loading_hooks
from lightning_autoarch.transfer.match.names import INNER, NameMatch
from lightning_autoarch.transfer.match.spellings import respell
from lightning_autoarch.transfer.match.view import SourceView
from lightning_autoarch.transfer.read.state import LazyStateDict, StateDict, like, versions_of


@dataclass(frozen=True)
class Spelled:
    """What of a source is for which tensor of a module.

    Attributes:
        state: the source, with the tensors that were made of it.
        pairs: name in the module -> name in `state`.
        reasons: name in the module -> how it is spelled in the source, where it is otherwise.
        used: names of the source that others were made of.
        left_out: names of the source that the module's own hooks leave out.
    """

    state: StateDict
    pairs: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()


def spelled(
    module: nn.Module, state: StateDict, names: NameMatch, wanted: Collection[str], lora_alpha: float | None
) -> Spelled:
    """Read a source as a module spells its tensors.

    Args:
        module: none of its tensors is written.
        state: the source, which stays as it is.
        names: of both.
        wanted: names in the module, of tensors and of those that are computed from others.
        lora_alpha: of adapters in the source.

    Raises:
        TransferError: adapters that cannot be added.
    """
    places = {INNER.sub("", name): name for name in wanted}
    view = SourceView(state, names.places)
    gone = run_loading_hooks(module, view, versions_of(state), names.prefix)
    of_hooks = set(view.made)
    hooked = {name for name in places if name in of_hooks or view.origins.get(name) != names.places.get(name)}
    made = merge_adapters(view, places, lora_alpha) | respell(view, places, module)
    reasons = dict.fromkeys(hooked, "by the module's own loading hooks")
    reasons |= {name: f"{reason}: {_listed(sources)}" for name, (reason, sources) in made.items()}
    used = {source for _, sources in made.values() for source in sources}
    whole, labels = _with_made(state, view, names)
    pairs = {name: labels.get(place) or view.origins[place] for place, name in places.items() if place in view}
    return Spelled(
        whole,
        pairs,
        {places[place]: reason for place, reason in reasons.items() if place in places},
        frozenset(used | (gone if of_hooks else set())),
        frozenset(set() if of_hooks else gone),
    )


def _with_made(state: StateDict, view: SourceView, names: NameMatch) -> tuple[StateDict, dict[str, str]]:
    """The source and what was made of it, and for each place that was made its name there."""
    if not view.made:
        return state, {}
    labels = {place: names.places.get(place, place) for place in view.made}
    made: dict[str, Tensor] = {labels[place]: tensor for place, tensor in view.made.items()}
    likes: Mapping[str, Tensor] = {**{name: like(state, name) for name in state}, **made}
    if isinstance(state, LazyStateDict):
        return LazyStateDict(likes, lambda name: made[name] if name in made else state[name]), labels
    return dict(likes), labels


def _listed(sources: Collection[str]) -> str:
    return ", ".join(f"`{source}`" for source in sources)
