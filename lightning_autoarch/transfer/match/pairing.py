"""Which tensor of a source belongs to which tensor of a module: the first stage of a transfer.

name_matching    the leading path that differs between the two, and the user's rules
source_view      what the module's own loading hooks make of the source
spellings        adapters merged into weights; weight norm, spectral norm, masks, attention
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_autoarch.core.errors import TransferError, shown
from lightning_autoarch.core.patterns import Patterns, plain_name
from lightning_autoarch.transfer.match.module_tensors import ModuleTensor, tensors_of
from lightning_autoarch.transfer.match.name_matching import NameMatch, match_names, suggestion
from lightning_autoarch.transfer.match.source_view import SourceView, run_loading_hooks
from lightning_autoarch.transfer.match.spellings import Parametrized, merge_adapters, parametrized, respell, whole_name
from lightning_autoarch.transfer.match.values import check_packing
from lightning_autoarch.transfer.matching import TransferOptions
from lightning_autoarch.transfer.read.state_dicts import LazyStateDict, Shape, StateDict, like, versions_of
from lightning_autoarch.transfer.tune.trainable import names_matching


@dataclass(frozen=True)
class Pairing:
    """The tensors of a module and those of a source, paired.

    Attributes:
        targets: Name in the module -> tensor that can be written.
        computed: Name in the module -> parametrised tensor, which is computed from others.
        names: The names of both.
        source: The source as the module spells it.
        shapes: Name in the source -> shape.
        kept: Names in the module that `reinit` excludes.
    """

    targets: Mapping[str, ModuleTensor]
    computed: Mapping[str, Parametrized]
    names: NameMatch
    source: Respelled
    shapes: Mapping[str, Shape]
    kept: frozenset[str]

    @property
    def pairs(self) -> Mapping[str, str]:
        """Name in the module -> name in the source."""
        return self.source.pairs

    def target_shapes(self) -> dict[str, Shape]:
        """Name in the module -> shape."""
        return {name: target.shape for name, target in self.targets.items()}

    def by_memory(self) -> Iterator[tuple[ModuleTensor, list[str]]]:
        """The first tensor of each memory, and all names of that memory."""
        names: dict[str, list[str]] = {}
        for target in self.targets.values():
            names.setdefault(target.tied_to or target.name, []).append(target.name)
        return ((self.targets[first], tied) for first, tied in names.items())

    def unplaced(self) -> dict[str, Shape]:
        """Names and shapes of the source that belong to no tensor of the module."""
        used = {*self.pairs.values(), *self.source.used}
        return {name: shape for name, shape in self.shapes.items() if name not in used}


@dataclass(frozen=True)
class Respelled:
    """A source in the spelling of a module.

    Attributes:
        state: The source, and the tensors that were computed from it.
        pairs: Name in the module -> name in `state`.
        reasons: Name in the module -> how the source spells it, if differently.
        used: Names of the source that other tensors were computed from.
        left_out: Names of the source that the module's loading hooks drop.
    """

    state: StateDict
    pairs: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()


def pair(module: nn.Module, state: StateDict, options: TransferOptions) -> Pairing:
    """Pair the tensors of a module with those of a source. Nothing is written.

    Raises:
        TransferError: A bad or unused rule or pattern, no name in common, or adapters that cannot be merged.
    """
    targets = tensors_of(module)
    computed = {each.name: each for each in parametrized(module)}
    shapes = _shapes(state)
    check_packing(shapes)
    wanted = {**dict.fromkeys(computed, (0,)), **{name: target.shape for name, target in targets.items()}}
    names = match_names(shapes, wanted, options.rules, whole_name)
    source = respelled(module, state, names, [*targets, *computed], options.matching.lora_alpha)
    pairing = Pairing(targets, computed, names, source, shapes | _shapes(source.state), frozenset())
    _check_any(pairing)
    kept = _kept(targets, computed, options.reinit)
    return Pairing(targets, computed, names, source, pairing.shapes, kept)


def respelled(
    module: nn.Module, state: StateDict, names: NameMatch, wanted: Collection[str], lora_alpha: float | None
) -> Respelled:
    """Read a source as a module spells its tensors.

    Args:
        module: None of its tensors is written.
        state: The source, which is not changed.
        names: The names of both.
        wanted: Names in the module, also of tensors that are computed from others.
        lora_alpha: Scale of the adapters in the source.

    Raises:
        TransferError: Adapters that cannot be merged.
    """
    places = {plain_name(name): name for name in wanted}
    view = SourceView(state, names.places)
    gone = run_loading_hooks(module, view, versions_of(state), names.prefix)
    by_hooks = set(view.made)
    hooked = {name for name in places if name in by_hooks or view.origins.get(name) != names.places.get(name)}
    made = merge_adapters(view, places, lora_alpha) | respell(view, places, module)
    reasons = dict.fromkeys(hooked, "by the module's own loading hooks")
    reasons |= {name: f"{reason}: {_quoted(sources)}" for name, (reason, sources) in made.items()}
    used = {source for _, sources in made.values() for source in sources}
    whole, labels = _with_computed(state, view, names)
    pairs = {name: labels.get(place) or view.origins[place] for place, name in places.items() if place in view}
    return Respelled(
        whole,
        pairs,
        {places[place]: reason for place, reason in reasons.items() if place in places},
        frozenset(used | (gone if by_hooks else set())),
        frozenset(set() if by_hooks else gone),
    )


def _with_computed(state: StateDict, view: SourceView, names: NameMatch) -> tuple[StateDict, dict[str, str]]:
    """The source with the tensors that were computed from it, and for each of those its name in that state_dict."""
    if not view.made:
        return state, {}
    labels = {place: names.places.get(place, place) for place in view.made}
    made: dict[str, Tensor] = {labels[place]: tensor for place, tensor in view.made.items()}
    likes: Mapping[str, Tensor] = {**{name: like(state, name) for name in state}, **made}
    if isinstance(state, LazyStateDict):
        return LazyStateDict(likes, lambda name: made[name] if name in made else state[name]), labels
    return dict(likes), labels


def _check_any(pairing: Pairing) -> None:
    if not pairing.pairs:
        first, here = next(iter(pairing.source.state), "nothing"), next(iter(pairing.targets), "nothing")
        near = suggestion(first, pairing.shapes.get(first, ()), pairing.target_shapes())
        raise TransferError(
            f"Expected names that the source and the module share, got none: `{shown(first)}`, ... in the source and "
            f"`{here}`, ... in the module. Pass `rules`.{near}"
        )


def _kept(
    targets: Mapping[str, ModuleTensor], computed: Mapping[str, Parametrized], reinit: Patterns
) -> frozenset[str]:
    """Names that `reinit` excludes; with a parametrised tensor all that it is computed from."""
    kept = names_matching(reinit, [*targets, *computed], "reinit")
    parts = [f"{each.path}." for each in computed.values() if each.name in kept]
    return frozenset(kept | {name for name in targets if name.startswith(tuple(parts))})


def _shapes(state: StateDict) -> dict[str, Shape]:
    return {name: tuple(like(state, name).shape) for name in state}


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
