"""Folders of one place whose names count differently, or of which there are several for a step: which are taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from driftline.checkpoints.folder_names import BARE, StepName, is_epoch
from driftline.checkpoints.places import layouts_in
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote

Members = Sequence[tuple[StepName, Path]]


@dataclass(frozen=True)
class Chosen:
    """The checkpoints of one place.

    Attributes:
        family: what their names count.
        steps: step -> folder, in step order.
        unused: folder -> why it is not taken.
        notes: sentences about the choice.
    """

    family: str
    steps: dict[int, Path]
    unused: dict[str, str]
    notes: tuple[str, ...]

    @property
    def usable(self) -> int:
        """How many hold weights that can be read, as far as that is seen without opening them."""
        return sum(map(is_usable, self.steps.values()))


def chosen(place: Path | str, members: Members, given: Mapping[int, Path], like: StepName | None = None) -> Chosen:
    """One family of names, and one series of it, so that neither counts nor precisions are mixed.

    Steps come before epochs, then comes the family, or series, with more usable checkpoints.

    Args:
        given: step -> folder, of steps that need no folder here.
        like: a name of the family and series to take, if they are there.

    Raises:
        InputError: two folders of one step, or of two families neither is the larger.
    """
    families: dict[str, list[tuple[StepName, Path]]] = {}
    for name, path in members:
        families.setdefault(name.family, []).append((name, path))
    family = like.family if like and like.family in families else _family(place, families)
    unused: dict[str, str] = {}
    for other, left in families.items():
        if other != family:
            unused |= dict.fromkeys(_paths(left), _why_other_family(other, families[family]))
    series: dict[str, list[tuple[StepName, Path]]] = {}
    for name, path in families[family]:
        series.setdefault(name.series, []).append((name, path))
    taken = next(iter(series))
    if like and like.series in series:
        taken = like.series
    elif len(series) > 1:
        taken = max(series, key=lambda kind: (_usable(series[kind]), len(series[kind]), kind == ""))
    notes: tuple[str, ...] = ()
    if len(series) > 1:
        example = series[taken][0][1].name
        left_out = [kind for kind in series if kind != taken]
        for kind in left_out:
            unused |= dict.fromkeys(
                _paths(series[kind]),
                f"of another series than {example}, which is read throughout, since copies may be rounded differently; "
                "give it as STEP=PATH to use it",
            )
        counts = " and ".join(
            f"{series[kind][0][1].name} ({len(series[kind])} of its kind)" for kind in (taken, *left_out)
        )
        notes = (f"{place} holds several copies of its steps, {counts}: those like {example} are read, no others",)
    steps = _by_step(place, series[taken], given)
    return Chosen(family, steps, unused, notes)


def is_usable(folder: Path) -> bool:
    """Whether a folder holds weights; of a remote one, where each look is a request, that is taken for granted."""
    return remote.is_remote(folder) or holds_weights(folder)


def holds_weights(folder: Path) -> bool:
    """Whether weights that can be read are in it, complete or not; so they may be where it cannot be looked into."""
    try:
        with remote.faults(folder):
            return any(layout.NAME != "megatron" for layout, _ in layouts_in(folder))
    except (OSError, UnreadableCheckpoint):
        return True


def _usable(members: Members) -> int:
    """Of how many steps."""
    return len({name.step for name, path in members if is_usable(path)})


def _family(place: Path | str, families: Mapping[str, Members]) -> str:
    if len(families) == 1:
        return next(iter(families))

    def rank(family: str) -> tuple[bool, bool, int, int]:
        usable = _usable(families[family])
        return usable > 0, not is_epoch(family), usable, len({name.step for name, _ in families[family]})

    ranks = {family: rank(family) for family in families}
    first, second, *_ = sorted(families, key=lambda family: (ranks[family], family != BARE), reverse=True)
    if ranks[first] == ranks[second] and second != BARE:
        one, other = dict(_pairs(families[first])), dict(_pairs(families[second]))
        for step in sorted(one.keys() & other.keys()):
            raise InputError(f"{one[step]} and {other[step]} both hold step {step}: name the one to use as {step}=PATH")
        a, b = families[first][0][1].name, families[second][0][1].name
        raise InputError(
            f"{place} holds folders such as {a} and such as {b}, as many of each, which may count differently: give "
            "those to use as STEP=PATH pairs"
        )
    return first


def _why_other_family(other: str, taken: Members) -> str:
    example = taken[0][1].name
    if is_epoch(other):
        return f"an epoch, not a step as in {example}; give it as STEP=PATH to use it"
    return (
        f"counts apart from {example} and the like, of which there are more usable ones; give it as STEP=PATH to use it"
    )


def _by_step(place: Path | str, members: Members, given: Mapping[int, Path]) -> dict[int, Path]:
    """Step -> folder, in order.

    Raises:
        InputError: two folders of one step, or steps that start anew in each epoch.
    """
    ordered = sorted(members, key=lambda one: (one[0].step, one[0].epoch or 0, str(one[1])))
    for (early, one), (late, other) in pairwise(ordered):
        if early.epoch is not None and late.epoch is not None and early.epoch != late.epoch:
            if early.step == late.step or early.epoch > late.epoch:
                raise InputError(
                    f"{place}: steps start anew in each epoch, as {one.name} and {other.name} show: give each as STEP=PATH, "
                    "its step counted over all epochs"
                )
        elif early.step == late.step and early.step not in given and not _same(one, other):
            raise InputError(f"{one} and {other} both hold step {early.step}: name the one to use as {early.step}=PATH")
    return dict(_pairs(ordered))


def _same(one: Path, other: Path) -> bool:
    """Whether one is a link to the other."""
    return not remote.is_remote(one) and one.resolve() == other.resolve()


def _pairs(members: Members) -> list[tuple[int, Path]]:
    return [(name.step, path) for name, path in members]


def _paths(members: Iterable[tuple[StepName, Path]]) -> list[str]:
    return [str(path) for _, path in members]
