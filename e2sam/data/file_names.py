"""Names of images in files for other tools: short, yet telling the images of a session apart, and found again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from e2sam.data.session import Plane, StackRecord
from e2sam.errors import SessionError

__all__ = ["matched", "short_names"]

# How well a name fits a stack: by its path (1) or its own name (0), how many parts from the end, by its first path (1).
Fit = tuple[int, int, int]


def short_names(records: Sequence[StackRecord]) -> dict[int, str]:
    """For each stack its file's name, with as many folders before it as tell it from the others; slashes between.

    Stacks that nothing tells apart share a name.
    """
    by_last: dict[str, list[list[str]]] = {}
    for record in records:
        for place in _places(record):
            by_last.setdefault(_parts(place)[-1], []).append(_parts(place))
    names = {}
    for record in records:
        parts = _parts(_places(record)[0])
        shared = (_shared(parts, other) for other in by_last[parts[-1]] if other != parts)
        names[record.id] = "/".join(parts[-1 - max(shared, default=0) :])
    return names


def matched(records: Sequence[StackRecord], wanted: Sequence[tuple[str, Plane]]) -> list[StackRecord | None]:
    """The stack behind each file name and plane of another file, None for those that are not there.

    The more parts of the path agree from the end, the better the fit; the best fit of both sides holds.

    Raises
    ------
    SessionError
        If a name fits several stacks equally, or several names one stack.
    """
    by_last: dict[str, list[StackRecord]] = {}
    for record in records:
        for last in {_parts(place)[-1] for place in (*_places(record), record.name)}:
            by_last.setdefault(last, []).append(record)
    offers = [_best(by_last.get(_parts(name)[-1], []), name, plane) for name, plane in wanted]
    claims: dict[tuple[int, Plane], list[tuple[Fit, str]]] = {}
    for (name, plane), (fit, found) in zip(wanted, offers, strict=True):
        for record in found:
            claims.setdefault((record.id, plane), []).append((fit, name))
    return [
        _decided(name, fit, found, [claims[record.id, plane] for record in found])
        for (name, plane), (fit, found) in zip(wanted, offers, strict=True)
    ]


def _best(records: Sequence[StackRecord], name: str, plane: Plane) -> tuple[Fit, list[StackRecord]]:
    fits = [(_fit_of(record, name), record) for record in records if len(record.leading) == len(plane)]
    best = max((fit for fit, _ in fits), default=(0, 0, 0))
    return best, [record for fit, record in fits if fit == best]


def _decided(
    name: str, fit: Fit, found: Sequence[StackRecord], rivals: Sequence[Sequence[tuple[Fit, str]]]
) -> StackRecord | None:
    """The one stack that a name fits, `rivals` being all names that fit each stack."""
    if all(max(claim)[0] > fit for claim in rivals):
        # Other images of the file are these; this one is not there.
        return None
    if len(found) > 1:
        shown = ", ".join(_places(record)[0] for record in found[:4])
        raise SessionError(
            f"Expected file name {name!r} to fit one image of the session, got {len(found)} that it fits equally: "
            f"{shown}: add the folder to the name."
        )
    names = [other for other_fit, other in rivals[0] if other_fit == fit]
    if len(names) > 1:
        raise SessionError(
            f"Expected one file name for {_places(found[0])[0]}, got {len(names)} that fit it equally: "
            f"{', '.join(names[:4])}: take the others out of the file, or add the folder to the name."
        )
    return found[0]


def _fit_of(record: StackRecord, name: str) -> Fit:
    parts = _parts(name)
    fits = [(_shared(parts, _parts(str(path))), int(path is record.paths[0])) for path in record.paths]
    shared, is_first = max(fits, default=(0, 0))
    return (1, shared, is_first) if shared else (0, _shared(parts, _parts(record.name)), 0)


def _places(record: StackRecord) -> list[str]:
    return [str(path) for path in record.paths] or [record.name]


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


def _shared(parts: Iterable[str], other: Iterable[str]) -> int:
    """How many parts are the same, counted from the end."""
    count = 0
    for one, two in zip(reversed([*parts]), reversed([*other]), strict=False):
        if one != two:
            break
        count += 1
    return count
