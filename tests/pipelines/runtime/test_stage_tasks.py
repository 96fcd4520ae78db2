from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from overlay.config import Limits, Prepare
from overlay.errors import WorkError
from overlay.images.ref import ImageRef
from overlay.preparation.stage_part import StagedPart
from overlay.preparation.staging import staged_parts
from overlay.sources.inputs import Portion
from overlay.sources.manifest import ManifestListing, write_manifest
from overlay.sources.read_plan import ReadUnit
from overlay.storage.path import StoragePath
from pipelines.runtime import stage_tasks
from pipelines.runtime.stage_tasks import stage_groups
from pipelines.runtime.task_memory import split_by_memory, task_bytes
from tests import hostile

MIB = 2**20
FIRST, SECOND = "1" * 56, "2" * 56
"""ids of nodes"""


class TwoNodes:
    """Nodes `FIRST` and `SECOND`; tasks run on the first unless they ask for another, and here, one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, missing_on_first: Path) -> None:
        self.node = ""
        self.ran: list[tuple[str, int]] = []
        self._missing = missing_on_first
        nodes = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 1.0}} for name in (FIRST, SECOND)]
        monkeypatch.setattr("ray.nodes", lambda: nodes)
        monkeypatch.setattr("ray.put", lambda value: value)
        monkeypatch.setattr("ray.get_runtime_context", lambda: self)
        monkeypatch.setattr(stage_tasks, "run_in_parallel", self.run)

    def get_node_id(self) -> str:
        return self.node

    def run(
        self,
        work: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        options: Callable[[tuple[Any, ...]], Mapping[str, Any]],
    ) -> Iterator[Any]:
        for call in calls:
            strategy = options(call).get("scheduling_strategy")
            self.node = FIRST if strategy is None else strategy.node_id
            self.ran.append((self.node, call[0].part))
            hidden = self._missing.with_suffix(".hidden")
            if self.node == FIRST and self._missing.exists():
                self._missing.rename(hidden)
            yield work(*call)
            if hidden.exists():
                hidden.rename(self._missing)


@pytest.fixture
def listing(tmp_path: Path) -> ManifestListing:
    """Three groups of one image."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(hostile.picture(number))
    refs = [ImageRef(f"{number}.png", str(tmp_path / f"{number}.png"), label="a", size=MIB) for number in range(3)]
    (tmp_path / "staged").mkdir()
    return write_manifest([Portion(refs)], tmp_path / "manifest.parquet", None, lambda _: None, group_rows=1)


def stage(listing: ManifestListing, folder: Path, allowed: int) -> list[StagedPart]:
    staged, config = StoragePath.of(folder / "staged"), Prepare(["source"], "dataset")
    return list(stage_groups(listing.manifest, listing.units, staged, config, allowed))


def test_what_one_node_lacks_is_read_on_the_other(
    listing: ManifestListing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = TwoNodes(monkeypatch, tmp_path / "1.png")
    assert stage(listing, tmp_path, allowed=0) == [StagedPart(part, done=1) for part in (0, 2, 1)]
    assert nodes.ran == [(FIRST, 0), (FIRST, 1), (FIRST, 2), (SECOND, 1)]
    assert staged_parts(StoragePath.of(tmp_path / "staged")) == {0, 1, 2}


def test_what_no_node_can_read_fails_the_preparation_unless_it_is_allowed(
    listing: ManifestListing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TwoNodes(monkeypatch, tmp_path / "none")
    (tmp_path / "1.png").unlink()
    said = r"an input can't be read, such as 1\.png: file that can't be read: No such file or directory; the dataset is"
    with pytest.raises(WorkError, match=said):
        stage(listing, tmp_path, allowed=0)
    staged = StoragePath.of(tmp_path / "staged")
    assert staged.children() == ["part-00000.parquet", "part-00002.parquet"]
    assert [outcome.unreadable for outcome in stage(listing, tmp_path, allowed=1)] == [0, 0, 1]
    assert staged_parts(staged) == {0, 2}
    (tmp_path / "2.png").unlink()
    with pytest.raises(WorkError, match=r"more than 1 inputs can't be read, such as 2\.png"):
        stage(listing, tmp_path, allowed=1)


def test_memory_of_tasks() -> None:
    assert task_bytes(0, Limits()) == 640 * MIB
    assert 2.1 * 1024 * MIB < task_bytes(49_000_000 * 4, Limits()) < 3 * 1024 * MIB
    assert task_bytes(2**40, Limits()) == Limits().decode_bytes
    units = [ReadUnit((number,), False, largest=size) for number, size in enumerate((MIB, 200 * MIB, 2 * MIB))]
    assert split_by_memory(units, Limits()) == [[units[0], units[2]], [units[1]]]
    assert split_by_memory(units[:1], Limits()) == [units[:1]]
