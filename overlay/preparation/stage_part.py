"""Staging of one group of the manifest: its images are read, and drawn and hashed in a decoder process.

An input that can't be read is another thing than a broken one: the part is tried again elsewhere, and becomes rows with
reasons only where the user accepts that.
"""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

from overlay.config import Prepare
from overlay.errors import ErrorKind, ImageError, Reason
from overlay.images.decoder_pool import pool_for
from overlay.images.ref import ImageRef
from overlay.images.render import RenderedRow, RenderOptions, read_contents, render_row
from overlay.preparation.staging import STAGED_SCHEMA, mark_unread, staged_path
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import Contents, Reader, read_in_order, unreadable
from overlay.storage.parquet import write_rows
from overlay.storage.path import StoragePath


class PartInput(NamedTuple):
    """Row group of the manifest to be staged."""

    part: int
    contents: Sequence[Contents] | None = None
    """bytes of each row's image and masks, where they were read in order; None: they are read by position"""
    fault: Reason | None = None
    """why they could not be read in order"""
    in_order: bool = False
    """whether they are still to be read in order"""


class StagedPart(NamedTuple):
    """Outcome of staging one group of the manifest."""

    part: int
    done: int = 0
    """number of images, without those that the listing rejected"""
    rejected: int = 0
    unreadable: int = 0
    """number of rejected images that could not be read"""
    fault: str = ""
    """id and reason of the first of these"""


class _Unreadable(Exception):
    """An input could not be read, and that is not accepted."""


def stage_part(
    given: PartInput, manifest: Manifest, staged: StoragePath, config: Prepare, accept: bool = False
) -> StagedPart:
    """Render one group of the manifest into a staged file. Images that the listing rejected are not counted.

    ``accept``: whether inputs that can't be read become rows with a reason, and the staged file is marked; otherwise
    nothing is staged where there is one.

    Raises:
        OSError: the manifest can't be read, or the staged file can't be written.
    """
    refs = manifest.read_group(given.part)
    outcome = StagedPart(given.part)
    contents, fault = _read_in_order(given, manifest) if given.in_order else (given.contents, given.fault)
    try:
        with (
            write_rows(staged_path(staged, given.part), STAGED_SCHEMA) as rows,
            Reader(config.limits.member_bytes) as reader,
        ):
            for ref, content in zip(refs, contents or repeat(None, len(refs)), strict=True):
                known = {"id": ref.id, "uri": ref.uri, "label": ref.label, "source": ref.source}
                found: RenderedRow | Reason = ref.reason or fault or _render(reader, ref, content, config)
                outcome = _count(outcome, ref, found)
                if outcome.unreadable and not accept:
                    raise _Unreadable
                if isinstance(found, Reason):
                    rows.write(known | {"image": None, "reason": found, "error_kind": found.kind})
                else:
                    rows.write(known | found)
            if outcome.unreadable:
                mark_unread(staged, given.part, unread=True)  # before the staged file appears
    except _Unreadable:
        return outcome
    if not outcome.unreadable:
        mark_unread(staged, given.part, unread=False)
    return outcome


def _count(outcome: StagedPart, ref: ImageRef, found: RenderedRow | Reason) -> StagedPart:
    if ref.reason is not None:
        return outcome
    outcome = outcome._replace(done=outcome.done + 1)
    if not isinstance(found, Reason):
        return outcome
    outcome = outcome._replace(rejected=outcome.rejected + 1)
    if found.kind is not ErrorKind.UNREADABLE:
        return outcome
    return outcome._replace(unreadable=outcome.unreadable + 1, fault=outcome.fault or f"{ref.id}: {found}")


def _read_in_order(given: PartInput, manifest: Manifest) -> tuple[Sequence[Contents] | None, Reason | None]:
    try:
        ((_, contents),) = read_in_order(manifest, ReadUnit((given.part,), in_order=True))
    except OSError as error:
        return None, unreadable(error)
    except ImageError as error:
        return None, error.reason
    return contents, None


def _render(reader: Reader, ref: ImageRef, content: Contents | None, config: Prepare) -> RenderedRow | Reason:
    read = reader.read_function(ref, content)
    try:
        return pool_for(config.limits).run(_render_files, ref, config, read_contents(ref, read)).value
    except ImageError as error:
        return error.reason
    except OSError as error:
        return unreadable(error)


def _render_files(ref: ImageRef, config: Prepare, files: Mapping[str, bytes]) -> RenderedRow:
    options = RenderOptions(config.overlay, config.max_pixels, config.images.bits, config.encoding, config.max_side)
    return render_row(ref, options, files.__getitem__)
