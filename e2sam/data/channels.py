"""Which channels the selector sees: selections, their ranking, and suggestions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from e2sam.data.composites import Composite, best_triples, composites_of, greedy_order, triple_scores
from e2sam.data.stack import ChannelSpec, ChannelStack, split_names
from e2sam.data.statistics import ChannelStatistics, channel_statistics
from e2sam.errors import ChannelError

__all__ = [
    "ChannelScore",
    "ChannelSelection",
    "ChannelStatistics",
    "Composite",
    "Suggestion",
    "channel_statistics",
    "composites_for",
    "composites_of",
    "plane_order",
    "rank_channels",
    "suggest_selections",
]

_COLOUR_WAVELENGTHS = {"r": 650.0, "red": 650.0, "g": 560.0, "green": 560.0, "b": 480.0, "blue": 480.0}
# Centre wavelengths, nm, of the bands that people put in the red, green and blue plane, and how far a band may be off.
_TRUE_COLOUR = (650.0, 560.0, 480.0)
_COLOUR_INFRARED = (850.0, 650.0, 560.0)
_NEAR_NM = 50.0
# Water vapour hides the ground there: bands of satellites that look at the atmosphere, nm.
_WATER_VAPOUR = ((930.0, 960.0), (1350.0, 1420.0), (1800.0, 1950.0))
# Names of transmitted light beside stains: its contrast is that of edges and dirt, and it has the most entropy of all.
_TRANSMITTED = re.compile(r"(?<![a-z])(bright[ _-]?field|bf|dic|phase|transmitted|trans)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class ChannelSelection:
    """The channels that the user lets the selector see, resolved against one stack.

    Attributes
    ----------
    indices
        Positions in the stack, in the user's order.
    names
        Their names.

    Examples
    --------
    >>> import numpy as np
    >>> from e2sam.data.stack import ChannelSpec
    >>> stack = ChannelStack(np.zeros((3, 8, 8)), tuple(ChannelSpec(name) for name in ("red", "nir", "thermal")))
    >>> ChannelSelection.of(stack, ["thermal", "red"]).indices
    (2, 0)
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, stack: ChannelStack, channels: str | Sequence[str | int] = "auto") -> ChannelSelection:
        """Resolve names or indices; "auto" is the first suggestion.

        Raises
        ------
        ChannelError
            If there are none, one does not exist, one stands twice, or no channel has a valid pixel.
        """
        if isinstance(channels, str):
            if channels != "auto":
                channels = split_names(channels)
            else:
                suggestions = suggest_selections(stack, top=1)
                if not suggestions:
                    raise ChannelError("Expected at least 1 channel with valid pixels, got none: see `e2sam info`.")
                channels = suggestions[0].names
        indices = stack.indices(channels)
        return cls(indices, tuple(stack.names[index] for index in indices))

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class ChannelScore:
    """One channel's place in the ranking, with the figures behind it.

    Attributes
    ----------
    name
        The channel.
    score
        Information x (1 - largest |correlation| with a channel ranked before it); 0 for a channel without valid pixels.
    information
        Standard deviation after normalization x share of the variance that is not noise x share of valid pixels.
    entropy
        Bits, at most 8.
    signal_to_noise
        Standard deviation over that of the noise.
    redundancy
        Largest |correlation| with a channel ranked before it, 0..1.
    valid_share
        Share of valid pixels, 0..1.
    """

    name: str
    score: float
    information: float
    entropy: float
    signal_to_noise: float
    redundancy: float
    valid_share: float


@dataclass(frozen=True)
class Suggestion:
    """A selection worth trying.

    Attributes
    ----------
    names
        One to three channels, in the order of the composite's planes R, G, B.
    score
        Optimum index factor of the triple (see `triple_scores`); the channel's information for one or two channels.
    reason
        One line for the user.
    """

    names: tuple[str, ...]
    score: float
    reason: str


def rank_channels(stack: ChannelStack, statistics: ChannelStatistics | None = None) -> list[ChannelScore]:
    """Rank the channels by what each adds to those before it.

    Minimum redundancy, maximum relevance, as a greedy order over the terms of the optimum index factor (Chavez et al.
    1982): information high, correlation with better channels low. Channels without valid pixels stand last.

    Parameters
    ----------
    stack
        Any stack.
    statistics
        Its statistics where the caller has them already.
    """
    known = channel_statistics(stack) if statistics is None else statistics
    information = known.information
    before: list[int] = []
    ranking = []
    for index, score in greedy_order(known.correlation, information, range(stack.num_channels)):
        redundancy = float(np.abs(known.correlation[index][before]).max()) if before else 0.0
        before.append(index)
        ranking.append(
            ChannelScore(
                name=stack.names[index],
                score=score,
                information=float(information[index]),
                entropy=float(known.entropy[index]),
                signal_to_noise=float(known.signal_to_noise[index]),
                redundancy=redundancy,
                valid_share=float(known.valid_share[index]),
            )
        )
    return sorted(ranking, key=lambda score: score.valid_share == 0)


def suggest_selections(
    stack: ChannelStack, top: int = 5, statistics: ChannelStatistics | None = None
) -> list[Suggestion]:
    """Suggest up to `top` selections of three channels, ordered as the composite's planes.

    First true colour where the stack has it (SAM was trained on photographs), then two colours with the channel that
    adds most to them, then colour infrared, then triples by the optimum index factor. Channels that are constant or
    have no valid pixel are left out; of satellites, bands that see water vapour only; of microscopes, transmitted light
    (by its name) beside three other channels. Where fewer than three channels are left, they are the only suggestion.
    """
    known = channel_statistics(stack) if statistics is None else statistics
    usable = [index for index in range(stack.num_channels) if known.valid_share[index] > 0]
    varying = [index for index in usable if known.deviation[index] > 1e-6]
    usable = varying or usable[:1]
    if len(usable) < 3:
        names = tuple(stack.names[index] for index in usable)
        amount = float(known.information[usable].sum()) if usable else 0.0
        return [Suggestion(names, amount, "every channel with signal")] if names and top > 0 else []
    keys = plane_order(stack)
    found: dict[frozenset[int], Suggestion] = {}
    # Asked for more than are wanted: some are the named ones again.
    telling = [
        index
        for index in usable
        if not _sees_vapour(stack.channels[index]) and not _TRANSMITTED.search(stack.names[index])
    ]
    drawn = telling if len(telling) >= 3 else usable
    triples = best_triples(known.correlation, known.information, drawn, top + 3)
    ordered = [
        (tuple(sorted(triple, key=lambda index: keys[index])), "informative and decorrelated") for triple in triples
    ]
    for triple, reason in (*_named_triples(stack, known, usable), *ordered):
        score = float(triple_scores(known.correlation, known.information, np.array([triple]))[0])
        names = tuple(stack.names[index] for index in triple)
        found.setdefault(frozenset(triple), Suggestion(names, score, reason))
    return list(found.values())[: max(top, 0)]


def composites_for(
    stack: ChannelStack, selection: ChannelSelection, statistics: ChannelStatistics, num_triples: int = 2
) -> tuple[Composite, ...]:
    """`composites_of` with the stack's names, and wavelengths in the right planes."""
    return composites_of(
        selection.indices,
        statistics.correlation,
        statistics.information,
        names=stack.names,
        order=plane_order(stack),
        num_triples=num_triples,
    )


def plane_order(stack: ChannelStack) -> tuple[float, ...]:
    """Sort keys that bring channels into the order of the planes R, G, B: long wavelengths first, others after them."""
    known = [_wavelength(channel) for channel in stack.channels]
    return tuple(index if length is None else -length for index, length in enumerate(known))


def _wavelength(channel: ChannelSpec) -> float | None:
    if channel.wavelength_nm is not None:
        return channel.wavelength_nm
    return _COLOUR_WAVELENGTHS.get(channel.name.lower())


def _sees_vapour(channel: ChannelSpec) -> bool:
    length = channel.wavelength_nm
    return channel.kind == "reflectance" and length is not None and any(a <= length <= b for a, b in _WATER_VAPOUR)


def _named_triples(
    stack: ChannelStack, known: ChannelStatistics, usable: Sequence[int]
) -> list[tuple[tuple[int, ...], str]]:
    triples: list[tuple[tuple[int, ...], str]] = []
    colour = _nearest(stack, usable, _TRUE_COLOUR)
    if colour:
        triples.append((colour, "true colour"))
        others = [index for index in usable if _wavelength(stack.channels[index]) is None]
        if others:
            red, green, _ = colour
            scores = triple_scores(
                known.correlation, known.information, np.array([(red, green, index) for index in others])
            )
            best = others[int(np.argmax(scores))]
            triples.append(((red, green, best), f"colour with {stack.names[best]}"))
    infrared = _nearest(stack, usable, _COLOUR_INFRARED)
    if infrared:
        triples.append((infrared, "colour infrared"))
    return triples


def _nearest(stack: ChannelStack, usable: Sequence[int], wanted: Sequence[float]) -> tuple[int, ...]:
    """The channels nearest to wavelengths in descending order, or none if one is too far or they coincide."""
    lengths = {index: length for index in usable if (length := _wavelength(stack.channels[index])) is not None}
    if len(lengths) < len(wanted):
        return ()
    nearest = [min(lengths, key=lambda index: abs(lengths[index] - target)) for target in wanted]
    near = all(abs(lengths[index] - target) <= _NEAR_NM for index, target in zip(nearest, wanted, strict=True))
    apart = all(lengths[first] > lengths[second] for first, second in pairwise(nearest))
    return tuple(nearest) if near and apart else ()
