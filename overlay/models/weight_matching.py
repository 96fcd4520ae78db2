"""Matching of a state_dict to torchvision's networks by the names and shapes of the weights, their heads aside.

The names may have a prefix (``module.``, ``_orig_mod.``, ``backbone.``, ``encoder_q.``), or numbers in place of the
names of a network's direct parts, as ``nn.Sequential(*list(network.children())[:-1])`` gives them (RadImageNet).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from overlay.errors import UnsupportedModel
from overlay.models.network import architectures
from overlay.models.safe_load import Weight
from overlay.models.stored_tensor import StoredTensor
from overlay.models.torchvision_weights import FIRST_WEIGHTS, Shape, Skeleton, family, is_counter, skeleton

# Parts of a module that take no part in its forward pass.
_BESIDE = re.compile(
    r"(?:^|[._])(?:criterion\w*|\w*loss\w*|\w*metrics?|\w*acc(?:uracy)?|\w*auroc|\w*auc|\w*f1\w*|\w*confmat|\w*precision"
    r"|\w*recall|ema\w*|\w*_ema|\w*teacher\w*|optimizer\w*|scheduler\w*|n_averaged|_extra_state)(?:[._]|$)",
    re.IGNORECASE,
)
_COPY = re.compile(r"(?:^|[._])(?:ema\w*|\w+_ema|\w*teacher\w*|momentum\w*|target\w*|\w+_k|shadow\w*|averaged\w*)\.")


@dataclass(frozen=True)
class Match:
    """Network whose weights a state_dict has, all but its head."""

    skeleton: Skeleton
    prefix: str
    body: dict[str, str]
    """name in the network -> name in the state_dict; counters of batch normalisation too, where they are there"""
    rest: tuple[str, ...]
    """names in the state_dict that are none of the body's, without counters and parts beside the forward pass"""

    @property
    def within_body(self) -> tuple[str, ...]:
        """Those of the rest that stand in a part of the network other than the one of its head."""
        parts = set(self.skeleton.children) | set(map(str, range(len(self.skeleton.children))))
        parts -= {self.skeleton.root, str(self.skeleton.children.index(self.skeleton.root))}
        after = {name: name.removeprefix(self.prefix).partition(".")[0] for name in self.rest}
        return tuple(name for name, part in after.items() if name.startswith(self.prefix) and part in parts)


@dataclass(frozen=True)
class _Layout:
    prefix: str
    numbered: bool
    archs: tuple[str, ...]

    def name(self, one: Skeleton, name: str) -> str:
        """Return the name in the state_dict of a weight of the network."""
        if not self.numbered:
            return self.prefix + name
        part, _, inner = name.partition(".")
        return f"{self.prefix}{one.children.index(part)}.{inner}"


@dataclass
class _Nearest:
    alike: int = 0
    one: Skeleton | None = None
    layout: _Layout | None = None


def match_backbone(
    state: Mapping[str, Weight], archs: Iterable[str] | None = None, trunk_only: bool = False
) -> Match | None:
    """Find the network that has the weights of a state_dict; None where none has.

    Where there are more weights than those of any network, in a part other than the head's, `Match.within_body` has
    their names.

    ``archs``: the networks that it may be, by default all. ``trunk_only``: leave out all of the part that the head is
    in, such as a VGG's ``classifier``.

    Raises:
        UnsupportedModel: it has two complete networks, and neither is named as a copy of the other (EMA, teacher).
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    layouts = list(_layouts(shapes, archs))
    partial: Match | None = None
    for layout in layouts:
        for arch in layout.archs:
            one = skeleton(arch)
            if _located(shapes, one, layout, trunk_only) is None:
                continue
            complete = [
                other
                for other in layouts
                if arch in other.archs and _located(shapes, one, other, trunk_only) is not None
            ]
            match = _match(state, one, complete, trunk_only)
            if not match.within_body:
                return match
            # A smaller network of the same family: resnet101 in the weights of a resnet152.
            if partial is None or len(match.body) > len(partial.body):
                partial = match
    return partial


def difference(state: Mapping[str, Weight], archs: Iterable[str] | None = None) -> str:
    """Describe the first difference of a state_dict from the nearest network, its head aside."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not is_counter(name)}
    best = _Nearest()
    for layout in _layouts(shapes, archs):
        for one in map(skeleton, layout.archs):
            alike = sum(shapes.get(layout.name(one, name)) == shape for name, shape in one.body.items())
            if alike > best.alike:
                best = _Nearest(alike, one, layout)
    if best.one is None or best.layout is None:
        best.one = max(map(skeleton, archs or architectures()), key=lambda each: _overlap(shapes, each))
        best.layout = _Layout("", False, (best.one.arch,))
    one, layout = best.one, best.layout
    names = {name: layout.name(one, name) for name in one.body}
    name = next((name for name, shape in one.body.items() if shapes.get(names[name]) != shape), None)
    said = f"{one.arch} ({best.alike} of {len(one.body)} weights alike): "
    if name is not None:
        given, expected = shapes.get(names[name], "missing"), one.body[name]
        return f"{said}{names[name]} is {given} there and {expected} in the network"
    strange = next(name for name in shapes if name not in set(names.values()))
    return f"{said}{strange} is {shapes[strange]} there and not known in the network"


def _layouts(shapes: Mapping[str, Shape], archs: Iterable[str] | None) -> Iterator[_Layout]:
    """Yield the layouts that a state_dict may have, those with the networks' own names first, short prefixes first."""
    allowed = None if archs is None else set(archs)
    for numbered in (False, True):
        for first in FIRST_WEIGHTS:
            _, dot, inner = first.partition(".")
            if numbered and not dot:
                continue
            end = f"0.{inner}" if numbered else first
            members = tuple(arch for arch in family(first) if allowed is None or arch in allowed)
            prefixes = [
                name.removesuffix(end) for name in shapes if name == end or (name.endswith(f".{end}") and members)
            ]
            for prefix in sorted(prefixes, key=len) if members else ():
                yield _Layout(prefix, numbered, members)


def _located(shapes: Mapping[str, Shape], one: Skeleton, layout: _Layout, trunk_only: bool) -> dict[str, str] | None:
    """Return where the weights of a network stand; None where one is missing or has another shape."""
    found = {}
    for name, shape in (one.trunk if trunk_only else one.body).items():
        there = layout.name(one, name)
        if shapes.get(there) != shape:
            return None
        found[name] = there
    return found


def _match(state: Mapping[str, Weight], one: Skeleton, complete: list[_Layout], trunk_only: bool) -> Match:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    originals = [layout for layout in complete if not _COPY.search(layout.prefix)] or complete
    layout = originals[0]
    first = layout.name(one, next(iter(one.body)))
    for other in originals[1:]:
        there = other.name(one, next(iter(one.body)))
        if not _same_place(state[first], state[there]):
            raise UnsupportedModel(
                f"holds two networks, {layout.prefix or first}* and {other.prefix or there}*, and doesn't say which "
                "one predicts; save the state_dict of one"
            )
    body = _located(shapes, one, layout, trunk_only) or {}
    used = {name for each in complete for name in (_located(shapes, one, each, trunk_only) or {}).values()}
    copies = tuple(each.prefix for each in complete if each is not layout and _COPY.search(each.prefix))
    rest = tuple(
        name
        for name in shapes
        if name not in used
        and not is_counter(name)
        and not _BESIDE.search(name.removeprefix(layout.prefix))
        and not (copies and name.startswith(copies))
    )
    counters = {
        f"{name.removesuffix('running_var')}num_batches_tracked": f"{there.removesuffix('running_var')}"
        "num_batches_tracked"
        for name, there in body.items()
        if name.endswith("running_var")
    }
    return Match(one, layout.prefix, body | {n: t for n, t in counters.items() if t in shapes}, rest)


def _same_place(one: Weight, other: Weight) -> bool:
    """Return whether two tensors are one, registered under two names."""
    if isinstance(one, StoredTensor) and isinstance(other, StoredTensor):
        return one.storage is other.storage and one.offset == other.offset
    return one is other


def _overlap(shapes: Mapping[str, Shape], one: Skeleton) -> float:
    """Return the share of shapes that a state_dict and a network have in common (Dice)."""
    given, known = Counter(shapes.values()), Counter(one.body.values())
    return 2 * (given & known).total() / (given.total() + known.total())
