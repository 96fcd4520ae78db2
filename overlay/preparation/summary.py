"""Summary of a preparation on the screen: contents of the sources, split, near-duplicates, rejected inputs."""

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from overlay.config import SPLITS
from overlay.dataset.card import DatasetCard
from overlay.dataset.prepared import PreparedDataset
from overlay.duplicates.near_duplicates import NearDuplicates
from overlay.preparation.mask_checks import describe_masks
from overlay.sources.labelled import LabelledListing
from overlay.storage.filenames import describe_passed_over


def describe_sources(sources: LabelledListing, usable: Counter[str]) -> str:
    """Return the numbers of images, masks and skipped files as one line; ``usable``: images of each class."""
    classes = ", ".join(f"{usable[label]} {label}" for label in sorted(usable))
    passed_over = describe_passed_over(sources.passed_over)
    skipped = f"; left out, since Overlay wrote them: {', '.join(sorted(sources.skipped))}" if sources.skipped else ""
    return f"{sources.images} images ({classes}) and {sources.masks} masks{passed_over}{skipped}"


def count_reasons(rejected: pa.Table) -> dict[str, int]:
    """Return kind of reason -> number of rejected inputs, most frequent first; a kind is the text before the colon."""
    kinds = pc.list_element(pc.split_pattern(rejected["reason"], ":", max_splits=1), 0)
    return dict(Counter(kinds.to_pylist()).most_common())


def print_summary(dataset: PreparedDataset, rejected: pa.Table, duplicates: NearDuplicates) -> None:
    """Print class counts of each split, near-duplicates, leakage, rejected inputs and the fingerprint."""
    card = dataset.card
    table = Table("class", *SPLITS, "all")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, counts in card.counts.items():
        table.add_row(Text(label), *(str(counts[name]) for name in SPLITS), str(sum(counts.values())))
    sums = [sum(counts[name] for counts in card.counts.values()) for name in SPLITS]
    table.add_section()
    table.add_row("all", *map(str, sums), str(sum(sums)))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for line in _findings(card, duplicates):
        console.print(line, markup=False)
    for reason, count in count_reasons(rejected).items():
        console.print(f"{count} rejected: {reason}", markup=False)
    console.print(f"prepared dataset: {dataset.path} (fingerprint {card.fingerprint[:12]})", markup=False)


def describe_group_sizes(sizes: Mapping[str, Mapping[str, float]]) -> str:
    """Return mean and maximum of the group sizes of each split as text, the splits in their usual order."""
    sides = [side for side in SPLITS if side in sizes] or list(sizes)
    return "; ".join(
        f"{side} {sizes[side]['mean']:.2f} (largest {sizes[side]['largest']}, {sizes[side]['groups']} groups)"
        for side in sides
    )


def _findings(card: DatasetCard, duplicates: NearDuplicates) -> list[str]:
    """Return lines about class shares, near-duplicates, label conflicts and leakage."""
    leaks = card.leaks
    more = "" if card.all_pairs else "more than "
    lines = [
        f"class shares differ from the whole's by at most {max(card.deviation.values()):.1f} points",
        f"{more}{card.near_duplicates} pairs of near-duplicates, {card.identical} of them identical; {card.groups} "
        f"groups, the largest of {card.largest_group}",
    ]
    if card.largest_group > 1:
        lines.append(f"images a group: {describe_group_sizes(card.group_sizes)}")
    if card.split_origin:
        lines.append(f"the split is that of {card.split_origin}")
    if card.conflicts:
        lines.append(f"{card.conflicts} pairs have different labels (see duplicates.png and duplicates.parquet):")
        lines += [
            f"  {duplicates.describe(int(pair))}" for pair in duplicates.order_by_conflict()[: min(5, card.conflicts)]
        ]
    if card.request.encoding != "png":
        lines.append("stored: " + ", ".join(f"{count} {name}" for name, count in card.encodings.items()))
    lines += describe_masks(card.masks)
    if any(leaks.values()):
        lines.append(
            f"LEAKS: the given split puts {leaks['pairs']} pairs of near-duplicates ({leaks['identical']} identical) "
            f"and {leaks['groups']} groups on two sides"
        )
    return lines
