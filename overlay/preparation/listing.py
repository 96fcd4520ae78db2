"""Listing of a preparation: sources, classes, groups and splits of all inputs, as a manifest in shuffled order."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from overlay.config import Prepare, table_column
from overlay.dataset.card import DatasetRequest
from overlay.images.ref import ImageRef
from overlay.preparation.splits import ClassSizes
from overlay.preparation.staging import staged_rows
from overlay.preparation.user_columns import GroupRule, SplitRule
from overlay.sources.inputs import Portion
from overlay.sources.labelled import ClassCounts, LabelledListing, list_labelled
from overlay.sources.manifest import ManifestListing, write_manifest
from overlay.sources.read_plan import archive_passes
from overlay.sources.spool import RefSorter
from overlay.storage.path import StoragePath


@dataclass(frozen=True)
class ListedSources:
    """Sources, classes and manifest of a preparation, before any image is opened."""

    sources: LabelledListing
    classes: ClassCounts
    manifest: ManifestListing
    tables: str
    """SHA-256 of the groups and splits from the user's tables; empty without a table"""


def list_sources(config: Prepare, folder: Path, on_progress: Callable[[int], None]) -> ListedSources:
    """List the sources into a manifest in ``folder``, in the order of a hash of their ids.

    So each shard holds images of every class, since a training reads the shards one after the other. ``on_progress``
    is called with the number of inputs in the manifest so far.

    Raises:
        RequestError: a source, or a table of the user, can't be used, or a class has too few groups.
    """
    groups = GroupRule(config.split.group_by) if config.split.group_by else None
    splits = SplitRule(config.split.column) if config.split.column else None
    sources = list_labelled(config.sources, config.limits, folder)
    classes, sizes, sorter = ClassCounts(), ClassSizes(), RefSorter(folder)
    for ref, path in sources.read():
        classes.add(ref)
        group = split = None
        if ref.reason is None and ref.label is not None:
            group = groups.group(ref.id, path) if groups else None
            split = splits.split(ref.id, path) if splits else None
            sizes.add(ref.label, group)
        sorter.add(hashlib.sha256(ref.id.encode()).digest(), ref._replace(group=group, split=split))
    classes.check([str(source.place) for source in sources.sources])
    for rule in (groups, splits):
        if rule:
            rule.check_found()
    if splits is None:
        sizes.check(config.split.folds)
    rows = staged_rows(sum(classes.usable.values()), config.shard_rows)
    tables = hashlib.sha256()

    def sorted_refs() -> Iterator[list[ImageRef]]:
        for refs in sorter.read():
            for ref in refs:
                tables.update(json.dumps([ref.id, ref.group, ref.split]).encode() + b"\n")
            yield refs

    manifest = write_manifest(_portions(sorted_refs()), folder / "manifest.parquet", None, on_progress, group_rows=rows)
    from_table = config.split.column or table_column(config.split.group_by or "")
    return ListedSources(sources, classes, manifest, tables.hexdigest() if from_table else "")


def create_request(config: Prepare, listed: ListedSources) -> DatasetRequest:
    """Create the request of a dataset from its options and the listing of its sources."""
    return DatasetRequest(
        [str(StoragePath.of(source)) for source in config.sources],
        config.overlay,
        config.split,
        config.max_pixels,
        config.shard_rows,
        listed.manifest.fingerprint,
        config.duplicates,
        listed.tables,
    )


def _portions(sorted_refs: Iterator[list[ImageRef]]) -> Iterator[Portion]:
    """Yield references that are read by position, and then one portion for each pass over an archive."""
    in_order: dict[str, list[ImageRef]] = {}
    for refs in sorted_refs:
        for ref in refs:
            if ref.spans and ref.spans[0].in_order_only:
                in_order.setdefault(ref.uri, []).append(ref)
        yield Portion([ref for ref in refs if not (ref.spans and ref.spans[0].in_order_only)])
    for of_one_archive in in_order.values():
        yield from (Portion(one_pass, in_order=True) for one_pass in archive_passes(of_one_archive))
