"""Listing of a preparation: sources, classes, groups and splits of all inputs, as a manifest in shuffled order."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from overlay.config import Prepare
from overlay.dataset.card import DatasetRequest
from overlay.images.ref import ImageRef
from overlay.preparation.class_checks import ClassSamples
from overlay.preparation.division import check_given_split
from overlay.preparation.mask_classes import label_by_colors
from overlay.preparation.patients import PatientGroups
from overlay.preparation.splits import ClassSizes
from overlay.preparation.staging import staged_rows
from overlay.preparation.user_columns import UserRules
from overlay.sources.data_address import allowed_roots
from overlay.sources.inputs import Portion
from overlay.sources.labelled import ClassCounts, LabelledListing, ListingOptions, list_labelled
from overlay.sources.manifest import ManifestListing, write_manifest
from overlay.sources.mask_pairing import ORPHAN_MASK
from overlay.sources.parquet_images import table_group_rows
from overlay.sources.read_plan import archive_passes
from overlay.sources.spool import RefSorter
from overlay.storage.path import StoragePath

_TABLE_ROWS = 2048
"""rows of a table that one task reads"""


@dataclass(frozen=True)
class ListedSources:
    """Sources, classes and manifest of a preparation, before any image is opened."""

    sources: LabelledListing
    classes: ClassCounts
    manifest: ManifestListing
    tables: str
    """SHA-256 of the labels, groups and splits from the user's tables; empty without a table"""
    remarks: list[str]
    """what the user must know of the tables"""


def list_sources(config: Prepare, folder: Path, on_progress: Callable[[int], None]) -> ListedSources:
    """List the sources into a manifest in ``folder``, in the order of a hash of their ids.

    So each shard holds images of every class, since a training reads the shards one after the other. ``on_progress``
    is called with the number of inputs in the manifest so far.

    Raises:
        RequestError: a source, or a table of the user, can't be used, or a class has too few groups.
    """
    rules = UserRules.of(config)
    others = config.labels.column is not None or config.masks.colors is not None
    roots = allowed_roots(config.allow_root)
    options = ListingOptions(config.limits, config.masks, config.layout, class_folders=not others, roots=roots)
    sources = list_labelled(config.sources, options, folder)
    given = check_given_split(config.split, sources.layout)
    patients = PatientGroups()
    for ref, path in sources.read() if rules.tables or sources.spool.grouped else ():
        patients.observe(ref)
        if ref.reason != ORPHAN_MASK:
            for table in rules.tables:
                table.observe(ref.id, path)
    for table in rules.tables:
        table.settle()
    classes, sizes, samples, sorter = ClassCounts(), ClassSizes(), ClassSamples(), RefSorter(folder)
    refs = sources.read()
    for ref, path in label_by_colors(refs, config) if config.masks.colors else refs:
        label, reason = rules.labels.label(ref.label, ref.id, path)
        ref = ref._replace(label=label, reason=ref.reason or reason)
        classes.add(ref)
        samples.add(ref)
        group = split = None
        if ref.reason is None and label is not None:
            group = rules.groups.group(ref.id, path) if rules.groups else patients.group(ref)
            split = rules.splits.split(ref.id, path) if rules.splits else ref.split
            sizes.add(label, group)
        # By the file's id, so that the frames of a file are read together.
        sorter.add(hashlib.sha256(ref.file_id.encode()).digest(), ref._replace(group=group, split=split))
    classes.check([str(source.place) for source in sources.sources])
    rules.check_found()
    samples.check(config)
    if rules.splits is None and config.split.only is None and not given:
        sizes.check(config.split.folds)
    rows = staged_rows(sum(classes.usable.values()), config.shard_rows)
    tables = hashlib.sha256()

    def sorted_refs() -> Iterator[list[ImageRef]]:
        for refs in sorter.read():
            for ref in refs:
                tables.update(json.dumps([ref.id, ref.group, ref.split, ref.label]).encode() + b"\n")
            yield refs

    manifest = write_manifest(_portions(sorted_refs()), folder / "manifest.parquet", None, on_progress, group_rows=rows)
    return ListedSources(
        sources, classes, manifest, tables.hexdigest() if rules.tables else "", [*rules.remarks(), *patients.remarks()]
    )


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
        config.labels,
        images=config.images,
        masks=config.masks,
        layout=config.layout,
        encoding=config.encoding,
        max_side=config.max_side,
    )


def _portions(sorted_refs: Iterator[list[ImageRef]]) -> Iterator[Portion]:
    """Yield references that are read by position, and then one portion for each pass over an archive or a table."""
    in_order: dict[str, list[ImageRef]] = {}
    for refs in sorted_refs:
        at_once = []
        for ref in refs:
            if _is_read_in_order(ref):
                in_order.setdefault(ref.uri, []).append(ref)
            else:
                at_once.append(ref)
        yield Portion(at_once)
    for uri, of_one_file in in_order.items():
        if of_one_file[0].spans:
            yield from (Portion(one_pass, in_order=True) for one_pass in archive_passes(of_one_file))
        else:
            rows, most = sorted(of_one_file, key=lambda ref: int(ref.member or 0)), table_group_rows(StoragePath(uri))
            for start in range(0, len(rows), _TABLE_ROWS):
                yield Portion(rows[start : start + _TABLE_ROWS], in_order=True, group_rows=most)


def _is_read_in_order(ref: ImageRef) -> bool:
    """Whether an image is a row of a table, or a member of an archive that is compressed as a whole."""
    return ref.spans[0].in_order_only if ref.spans else _is_row(ref)


def _is_row(ref: ImageRef) -> bool:
    return ref.member is not None and ref.frame is None and ref.reason is None
