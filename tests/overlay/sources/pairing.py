from collections.abc import Iterable

from overlay.sources.conventions import MaskConventions
from overlay.sources.mask_pairing import Pairing, pair_in_steps


def pair_masks(names: Iterable[str], conventions: MaskConventions | None = None) -> Pairing:
    """Pair a few names, in one step."""
    return next(pair_in_steps(sorted(names), conventions or MaskConventions()), Pairing())
