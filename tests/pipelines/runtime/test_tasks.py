from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.config import Limits
from overlay.errors import ErrorKind, WorkError
from overlay.sources.inputs import ListingRule, list_members
from overlay.sources.manifest import write_manifest
from overlay.storage.path import StoragePath
from pipelines.runtime.tasks import ArchivePass, run_in_parallel
from tests.pipelines.test_archives import pack


def reciprocal(number: int) -> float:
    return 1 / number


def test_a_pass_over_an_archive_can_be_asked_again(phantoms: Path, tmp_path: Path) -> None:
    archive = pack(phantoms, tmp_path / "x.tar.gz")
    portions = list_members(StoragePath.of(archive), ListingRule("", Limits()))
    listing = write_manifest(portions, tmp_path / "manifest.parquet", None, lambda _: None, group_rows=8)
    manifest, (unit,) = listing.manifest, listing.units
    groups = [[ref.masks for ref in manifest.read_group(number)] for number in range(manifest.groups)]
    reading = ArchivePass(manifest, unit)
    first = [reading.group(number) for number in range(len(groups))]
    assert [read.part for read in first] == list(range(len(groups)))
    assert [[len(each) for each in read.contents or ()] for read in first] == [
        [1 + len(masks) for masks in group] for group in groups
    ]
    again = ArchivePass(manifest, unit)  # as where its node was lost
    assert [again.group(number) for number in (2, 3, 1)] == [first[2], first[3], first[1]]
    Path(archive).unlink()
    lost = ArchivePass(manifest, unit).group(1)
    assert (lost.part, lost.contents) == (1, None)
    assert lost.fault is not None
    assert lost.fault.kind is ErrorKind.UNREADABLE


def test_no_more_calls_are_taken_than_are_worked_on(ray_session: None) -> None:
    taken: list[int] = []

    def calls() -> Iterator[tuple[int]]:
        for number in range(1, 1000):
            taken.append(number)
            yield (number,)

    results = run_in_parallel(reciprocal, calls())
    assert 0 < next(results) <= 1
    assert len(taken) <= 100
    results.close()  # type: ignore[attr-defined]


def test_what_a_task_raises_ends_the_work(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"^\[Errno 2\] No such file or directory: '.*/nothing'$"):
        list(run_in_parallel(StoragePath.read_bytes, [(StoragePath.of(tmp_path / "nothing"),)]))
    with pytest.raises(WorkError, match=r"^an error of Overlay itself, ZeroDivisionError: division by zero; please"):
        list(run_in_parallel(reciprocal, [(1,), (0,)]))
