import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

from overlay.config import Duplicates, OverlayStyle, Prepare, Split
from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.schema import DATASET_SCHEMA, REJECTED_SCHEMA
from overlay.errors import RequestError, WorkError
from overlay.images.codec import decode_image
from overlay.images.ref import MANIFEST_SCHEMA
from overlay.sources.own_output import own_output
from pipelines import prepare

REPOSITORY = Path(__file__).parents[2]


def make(folder: Path, classes: str = "ab", images: int = 8, side: int = 24) -> Path:
    """Write a set in BUSI's layout: noise, and a square as mask, which every second image has two of."""
    random = np.random.default_rng(0)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in range(images):
            pixels = random.integers(0, 256, (side, side + 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{label} ({number}).png")
            for suffix in ("_mask", "_mask_1")[: 1 + number % 2]:
                start = 2 if suffix == "_mask" else 14
                mask = np.zeros((side, side + 6), np.uint8)
                mask[start : start + 6, 3:9] = 255
                Image.fromarray(mask).save(folder / label / f"{label} ({number}){suffix}.png")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("source") / "set")


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> PreparedDataset:
    out = tmp_path_factory.mktemp("prepared") / "out"
    return prepare.run(Prepare([str(source)], str(out), shard_rows=6))


def test_the_files_of_the_contract(prepared: PreparedDataset, source: Path) -> None:
    out = Path(prepared.path)
    assert sorted(entry.name for entry in out.iterdir()) == [
        "contact_sheet.png",
        "data",
        "dataset.json",
        "duplicates.parquet",
        "manifest.parquet",
        "rejected.parquet",
    ]
    assert own_output([entry.name for entry in out.iterdir()]) == "a prepared dataset"
    assert [pq.read_metadata(file).num_rows for file in prepared.data_files()] == [6, 6, 4]
    assert all(pq.read_schema(file).equals(DATASET_SCHEMA, check_metadata=True) for file in prepared.data_files())
    manifest, rejected = pq.read_table(out / "manifest.parquet"), pq.read_table(out / "rejected.parquet")
    assert manifest.schema == MANIFEST_SCHEMA
    assert rejected.schema == REJECTED_SCHEMA
    assert rejected.num_rows == 0
    masked = [source / "a" / f"a (1){end}.png" for end in ("", "_mask", "_mask_1")]
    assert manifest.filter(pc.equal(manifest["id"], "a/a (1).png")).to_pylist() == [
        {
            "id": "a/a (1).png",
            "uri": f"{source}/a/a (1).png",
            "member": None,
            "masks": [f"{source}/a/a (1)_mask.png", f"{source}/a/a (1)_mask_1.png"],
            "label": "a",
            "group": None,
            "split": None,
            "source": "set",
            "size": masked[0].stat().st_size,
            "version": ";".join(str(file.stat().st_mtime_ns) for file in masked),
            "spans": None,
            "reason": None,
            "error_kind": None,
            "drawn": True,
        }
    ]


def test_webp_holds_the_same_dataset(prepared: PreparedDataset, source: Path, tmp_path: Path) -> None:
    config = Prepare([str(source)], str(tmp_path / "out"), shard_rows=6, encoding="webp")
    webp = prepare.run(config)
    assert (webp.card.encodings, prepared.card.encodings) == ({"webp": 16}, {"png": 16})
    assert webp.card.fingerprint == prepared.card.fingerprint
    shown = [
        pd.read_parquet(Path(each.path) / "data").set_index("id")["image"].sort_index() for each in (prepared, webp)
    ]
    assert all(image["bytes"].startswith(b"RIFF") for image in shown[1])
    for one, other in zip(*shown, strict=True):
        np.testing.assert_array_equal(decode_image(one["bytes"]), decode_image(other["bytes"]))
    with pytest.raises(RequestError, match="encoding is 'webp' there and 'png' here"):
        prepare.run(replace(config, encoding="png"))


def test_the_card_counts_what_the_tables_hold(prepared: PreparedDataset) -> None:
    assert prepared.card.classes == ["a", "b"]
    assert prepared.card.counts == {label: {"train": 6, "val": 1, "test": 1} for label in "ab"}
    assert (prepared.card.rejected, prepared.card.parts) == (0, 3)
    assert prepared.card.request.overlay == OverlayStyle()


def test_duckdb_and_pandas_read_it(prepared: PreparedDataset) -> None:
    query = f"""select label, split, count(*), sum(mask_lesions), min(octet_length(image.bytes)) > 0
                from '{prepared.path}/data/*.parquet' group by all order by all"""
    with duckdb.connect() as connection:
        rows = connection.execute(query).fetchall()
    assert [row[:3] for row in rows] == [
        (label, split, prepared.card.counts[label][split]) for label in "ab" for split in ("test", "train", "val")
    ]
    assert sum(row[3] for row in rows) == 2 * (4 * 1 + 4 * 2)
    assert all(row[4] for row in rows)
    frame = pd.read_parquet(Path(prepared.path) / "data")
    assert sorted(frame["id"]) == sorted(f"{label}/{label} ({i}).png" for label in "ab" for i in range(8))
    assert decode_image(frame["image"][0]["bytes"]).shape == (24, 30, 3)


def test_hugging_face_shows_images(
    prepared: PreparedDataset, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets

    loaded = datasets.load_dataset(
        "parquet", data_files=f"{prepared.path}/data/*.parquet", split="train", cache_dir=str(tmp_path)
    )
    assert isinstance(loaded, datasets.Dataset)
    assert loaded.num_rows == 16
    assert isinstance(loaded.features["image"], datasets.Image)
    for row in loaded:
        assert isinstance(row, dict)
        assert isinstance(row["image"], Image.Image)
        assert row["image"].size == (30, 24)
    stored = {row["id"]: row["image"] for row in loaded if isinstance(row, dict)}
    before = np.asarray(Image.open(source / "a" / "a (0).png"))
    np.testing.assert_array_equal(np.asarray(stored["a/a (0).png"])[8:], before[8:])  # below the only mask


def test_an_overlay_lies_where_the_masks_are(prepared: PreparedDataset, source: Path) -> None:
    (row,) = [
        row
        for row in pyarrow.dataset.dataset(prepared.data_files()).to_table().to_pylist()
        if row["id"] == "a/a (1).png"
    ]
    before = np.asarray(Image.open(source / "a" / "a (1).png"))
    changed = (decode_image(row["image"]["bytes"]) != before).any(axis=2)
    expected = np.zeros((24, 30), bool)
    expected[2:8, 3:9] = expected[14:20, 3:9] = True
    assert not changed[~expected].any()
    assert changed[expected].mean() > 0.95


def test_the_same_request_does_nothing(prepared: PreparedDataset, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(prepared.path).rglob("*")}
    request = prepared.card.request
    again = prepare.run(Prepare(request.sources, prepared.path, shard_rows=6))
    assert again == prepared
    assert "nothing to do" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in Path(prepared.path).rglob("*")} == before


def test_neither_place_nor_shards_nor_order_change_the_fingerprint(
    prepared: PreparedDataset, source: Path, tmp_path: Path
) -> None:
    wrapped = tmp_path / "elsewhere" / "download"
    shutil.copytree(source, wrapped / "set")
    other = prepare.run(Prepare([str(wrapped)], str(tmp_path / "out"), shard_rows=100))
    assert other.card.parts == 1
    assert other.card.fingerprint == prepared.card.fingerprint


def test_an_option_changes_the_fingerprint_and_needs_overwrite(source: Path, tmp_path: Path, ray_session: None) -> None:
    config = Prepare([str(source)], str(tmp_path / "out"))
    first = prepare.run(config)
    changed = replace(config, overlay=OverlayStyle(style="contour"))
    with pytest.raises(RequestError, match=r"overlay\.style is 'fill' there and 'contour' here; replace it with --ov"):
        prepare.run(changed)
    second = prepare.run(replace(changed, overwrite=True))
    assert second.card.fingerprint != first.card.fingerprint
    assert set(pq.read_table(second.data_files()[0])["overlay"].to_pylist()) == {"contour"}


def test_each_rejection_is_named(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path / "set")
    (source / "a" / "a (0)_mask.png").unlink()
    (source / "a" / "a (2).png").unlink()
    (source / "b" / "b (0).png").write_bytes(b"no image")
    (source / "b" / "b (1)_mask_1.png").write_bytes((source / "b" / "b (2).png").read_bytes()[:100])
    Image.new("L", (3, 4)).save(source / "b" / "b (2)_mask.png")
    Image.new("RGB", (100, 100)).save(source / "b" / "b (3).png")
    dataset = prepare.run(Prepare([str(source)], str(tmp_path / "out"), max_pixels=9_999))
    rejected = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()}
    assert list(rejected) == [
        "a/a (0).png",
        "a/a (2)_mask.png",
        "b/b (0).png",
        "b/b (1).png",
        "b/b (2).png",
        "b/b (3).png",
    ]
    reasons = [row["reason"] for row in rejected.values()]
    assert reasons[0] == "image without a mask, where others of its source have one"
    assert reasons[1] == "mask without an image"
    assert reasons[2].startswith("no image that can be read")
    assert reasons[3].startswith("mask that can't be used: b (1)_mask_1.png: damaged PNG")
    assert reasons[4] == "mask of another size: b (2)_mask.png has 3 x 4 pixels, its image 30 x 24"
    assert reasons[5] == "too many pixels: 100 x 100, more than 9999 (max_pixels)"
    assert rejected["b/b (0).png"]["uri"] == f"{source}/b/b (0).png"
    assert rejected["b/b (0).png"]["label"] == "b"
    assert dataset.card.rejected == 6
    assert {label: sum(counts.values()) for label, counts in dataset.card.counts.items()} == {"a": 6, "b": 4}
    assert "1 rejected: mask of another size" in capsys.readouterr().out


def divide(source: Path, *folders: str) -> Path:
    """Move the images of a set by `make` into folders above the classes, in turn."""
    for label in ("a", "b"):
        for image in (source / label).iterdir():
            number = int(image.name.split("(")[1].split(")")[0])
            target = source / folders[number % len(folders)] / label / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            image.rename(target)
        (source / label).rmdir()
    return source


def test_a_split_of_folders_is_kept_and_its_leaks_are_counted(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = divide(make(tmp_path / "set", images=12), "Training", "Testing")
    (source / "Testing" / "a" / "a (1).png").write_bytes((source / "Training" / "a" / "a (0).png").read_bytes())
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(source / "Testing" / "b" / "b (3)_mask.png")
    (source / "Testing" / "b" / "b (3)_mask_1.png").unlink()
    dataset = prepare.run(Prepare([str(source)], str(tmp_path / "out")))
    assert dataset.card.counts == {label: {"train": 5, "val": 1, "test": 6} for label in "ab"}
    assert (dataset.card.leaks["pairs"], dataset.card.leaks["identical"]) == (1, 1)
    assert dataset.card.split_origin == "the sources' folders, with val drawn from train"
    assert dataset.card.masks["b"] == {"masks": 12, "empty": 1, "inverted": 0, "over_90_percent": 0}
    frame = pd.concat([pd.read_parquet(file, columns=["id", "split"]) for file in dataset.data_files()])
    folder = {"train": "Training", "val": "Training", "test": "Testing"}
    assert all(id.startswith(f"{folder[split]}/") for id, split in frame.itertuples(index=False))
    said = capsys.readouterr().out
    assert "the split is that of the sources' folders, with val drawn from train" in said
    assert "LEAKS: the given split puts 1 pairs of near-duplicates (1 identical) and 1 groups on two sides" in said
    assert "CHECK THE MASKS of b: of 12, 1 have no lesion, where others of the class have one" in said
    with pytest.raises(
        RequestError, match=r"split\.folds is 3, and the sources are divided already, into Testing, Train"
    ):
        prepare.run(Prepare([str(source)], str(tmp_path / "other"), split=Split(folds=3)))
    assert not (tmp_path / "other").exists()


def test_folders_of_folds_become_the_column_fold(tmp_path: Path, ray_session: None) -> None:
    source = divide(make(tmp_path / "set", images=9), "fold1", "fold2", "fold3")
    dataset = prepare.run(Prepare([str(source)], str(tmp_path / "out")))
    frame = pd.concat([pd.read_parquet(file, columns=["id", "split", "fold"]) for file in dataset.data_files()])
    assert {(id[:5], fold, split) for id, split, fold in frame.itertuples(index=False)} == {
        ("fold1", 0, "test"),
        ("fold2", 1, "val"),
        ("fold3", 2, "train"),
    }
    assert dataset.card.split_origin == "the sources' folders"


def test_groups_stay_on_one_side(tmp_path: Path, ray_session: None) -> None:
    source = make(tmp_path / "set", images=12)
    split = Split(group_by=r"\((\d)\d?\)")  # 1, 10 and 11 of both classes are one group
    dataset = prepare.run(Prepare([str(source)], str(tmp_path / "out"), split=split, shard_rows=5))
    frame = pd.concat([pd.read_parquet(file, columns=["group", "split"]) for file in dataset.data_files()])
    assert Counter(frame["group"]) == {"1": 6} | {str(i): 2 for i in (0, *range(2, 10))}
    assert (frame.groupby("group")["split"].nunique() == 1).all()


def test_a_class_that_breaks_away_is_said_and_can_be_mended(tmp_path: Path, ray_session: None) -> None:
    source = make(tmp_path / "set", images=3)
    whole = {image: image.read_bytes() for image in (source / "b").glob("b (?).png")}
    for image in whole:
        image.write_bytes(b"broken")
    config = Prepare([str(source)], str(tmp_path / "out"))
    with pytest.raises(
        WorkError, match=r"class b has no usable image left; rejected were: 3 no image .*rejected\.parquet"
    ):
        prepare.run(config)
    for image, data in whole.items():
        image.write_bytes(data)
    assert prepare.run(config).card.rejected == 0


def test_a_file_that_has_changed_is_another_request(tmp_path: Path, ray_session: None) -> None:
    source = make(tmp_path / "set", images=4)
    config = Prepare([str(source)], str(tmp_path / "out"))
    before = prepare.run(config).card
    assert prepare.run(config).card == before
    image, mask = source / "a" / "a (1).png", source / "b" / "b (1)_mask.png"
    for file in (image, mask):
        status = file.stat()
        os.utime(file, ns=(0, status.st_mtime_ns + 1))
        with pytest.raises(RequestError, match="the sources hold other files now, or files that have changed"):
            prepare.run(config)
        os.utime(file, ns=(0, status.st_mtime_ns))
    assert prepare.run(config).card == before


def test_a_pipe_in_a_class_folder_is_rejected_and_does_not_block(tmp_path: Path, ray_session: None) -> None:
    source = make(tmp_path / "set", images=4)
    os.mkfifo(source / "a" / "pipe.png")
    (source / "b" / "zero.png").symlink_to("/dev/zero")
    assert prepare.run(Prepare([str(source)], str(tmp_path / "out"))).card.rejected == 2
    reasons = pq.read_table(tmp_path / "out" / "rejected.parquet").select(["id", "label", "reason"]).to_pylist()
    said = "not a regular file: a pipe, a socket, a device, or a link that leads nowhere"
    assert reasons == [
        {"id": "a/pipe.png", "label": "a", "reason": said},
        {"id": "b/zero.png", "label": "b", "reason": said},
    ]


def test_a_limit_of_pixels_holds_for_the_pictures_too(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pictures are drawn in this process, with the limit of the request and not with the default.
    defaults = {"max_pixels": 10, "target": None, "frame": None, "bits": None}
    monkeypatch.setattr("overlay.images.codec.decode_image.__kwdefaults__", defaults)
    source = make(tmp_path / "set", images=4)
    dataset = prepare.run(Prepare([str(source)], str(tmp_path / "out"), max_pixels=2000))
    assert dataset.card.request.max_pixels == 2000
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ["/nowhere"]}, "source /nowhere is not there"),
        ({"split": Split(group_by="(")}, "no regular expression"),
        ({"split": Split(group_by="nobody")}, "matches no path"),
        ({"split": Split(group_by="^a", ungrouped="single")}, "class a has 8 images in 1 groups, too few"),
    ],
)
def test_bad_requests_write_nothing(source: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    config = replace(Prepare([str(source)], str(tmp_path / "out")), **changes)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=message):
        prepare.run(config)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_disk_is_an_error_of_the_job(tmp_path: Path, ray_session: None) -> None:
    source = make(tmp_path / "set", images=4)
    (source / "a" / "a (3).png").unlink()
    (source / "a" / "a (3).png").symlink_to("/proc/self/mem")  # which can't be read at its beginning
    with pytest.raises(WorkError, match=r"Input/output error.*goes on where it stopped"):
        prepare.run(Prepare([str(source)], str(tmp_path / "out")))


def descendants(process: int) -> list[int]:
    """List a process and all that it started."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(status.parent.name))
    found = [process]
    for each in found:
        found += children.get(each, [])
    return found


def kill(child: subprocess.Popen[bytes]) -> None:
    """End a job, its Ray and its workers, at one stroke and without a word."""
    for process in descendants(child.pid):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    child.wait()


@pytest.mark.fault
@pytest.mark.slow
def test_killed_and_run_again(tmp_path: Path, ray_session: None) -> None:
    source = make(tmp_path / "set", images=160, side=300)
    undisturbed = prepare.run(Prepare([str(source)], str(tmp_path / "undisturbed"), shard_rows=4))
    out, staged = tmp_path / "out", tmp_path / "out" / ".prepare" / "staged"
    program = (
        "from overlay.config import Prepare; from pipelines import prepare; "
        f"prepare.run(Prepare([{str(source)!r}], {str(out)!r}, shard_rows=4))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    # Four moments by how much is staged (80 parts in all), whatever the speed of the machine, and one among the shards.
    random = np.random.default_rng(0)
    moments = [("staged", int(parts)) for parts in np.sort(random.integers(0, 80, 4))]
    moments.append(("data", int(random.integers(1, 80))))
    killed = []
    for folder, parts in moments:
        child = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        place = staged if folder == "staged" else out / "data"
        while len(list(place.glob("part-*"))) < parts and child.poll() is None:
            time.sleep(0.005)
        if child.poll() is None:
            kill(child)
            killed.append(folder)
            assert not (out / "dataset.json").exists()
    assert killed == ["staged"] * 4 + ["data"]

    again = prepare.run(Prepare([str(source)], str(out), shard_rows=4))
    assert again.card.fingerprint == undisturbed.card.fingerprint
    assert not (out / ".prepare").exists()
    assert sorted(file.name for file in out.rglob("*.tmp")) == []
    for mine, theirs in zip(again.data_files(), undisturbed.data_files(), strict=True):
        assert Path(mine).read_bytes() == Path(theirs).read_bytes()


def test_staged_parts_are_not_done_again(
    prepared: PreparedDataset,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Prepare([str(source)], str(tmp_path / "out"), shard_rows=6)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "read_staged", None)
        with pytest.raises(TypeError):
            prepare.run(config)
    (tmp_path / "out" / ".prepare" / "staged" / "part-00001.parquet").unlink()
    capsys.readouterr()
    again = prepare.run(config)
    assert "going on: 10 of 16 images are done already" in capsys.readouterr().out
    assert again.card.fingerprint == prepared.card.fingerprint
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["parts"] == 3


def test_phantoms_can_be_prepared(phantoms: Path, tmp_path: Path, ray_session: None) -> None:
    dataset = prepare.run(Prepare([str(phantoms)], str(tmp_path / "out")))
    assert {label: sum(counts.values()) for label, counts in dataset.card.counts.items()} == {
        "benign": 12,
        "malignant": 12,
        "normal": 12,
    }
    assert dataset.card.rejected == 0


def copies(source: Path) -> Path:
    """Add a copy within a class, one with another label, and a darker one."""
    (source / "a" / "a (20).png").write_bytes((source / "a" / "a (1).png").read_bytes())
    (source / "b" / "b (20).png").write_bytes((source / "a" / "a (2).png").read_bytes())
    Image.open(source / "b" / "b (3).png").point(lambda value: value * 0.9).save(source / "b" / "b (21).png")
    return source


def unmasked(folder: Path) -> Path:
    for mask in make(folder, images=12).rglob("*_mask*"):
        mask.unlink()
    return copies(folder)


def read(dataset: PreparedDataset) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(file, columns=["id", "group", "split", "fold"]) for file in dataset.data_files()])


def test_near_duplicates_are_listed_and_stay_together(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = prepare.run(Prepare([str(unmasked(tmp_path / "set"))], str(tmp_path / "out"), shard_rows=10))
    pairs = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    assert [(pair["id_a"], pair["id_b"], pair["identical_pixels"], pair["label_b"]) for pair in pairs] == [
        ("a/a (1).png", "a/a (20).png", True, "a"),
        ("a/a (2).png", "b/b (20).png", True, "b"),
        ("b/b (21).png", "b/b (3).png", False, "b"),
    ]
    assert 0 <= pairs[2]["distance"] <= 40
    frame = read(dataset).set_index("id")
    for pair in pairs:
        assert frame["group"][pair["id_a"]] == frame["group"][pair["id_b"]] == pair["id_a"]
    assert (frame.groupby("group")["split"].nunique() == 1).all()
    card = dataset.card
    assert (card.near_duplicates, card.identical, card.conflicts, card.all_pairs) == (3, 2, 1, True)
    assert (card.groups, card.largest_group) == (24, 2)
    assert card.leaks == {"pairs": 0, "identical": 0, "groups": 0}
    assert decode_image((tmp_path / "out" / "duplicates.png").read_bytes()).shape[1] == 1112
    assert decode_image((tmp_path / "out" / "contact_sheet.png").read_bytes()).shape[1] == 1416
    said = capsys.readouterr().out
    assert "3 pairs of near-duplicates, 2 of them identical; 24 groups, the largest of 2" in said
    assert "  a/a (2).png (a) and b/b (20).png (b): identical pixels" in said


def test_conflicts_are_dropped_or_stop_the_work(tmp_path: Path, ray_session: None) -> None:
    config = Prepare([str(unmasked(tmp_path / "set"))], str(tmp_path / "out"), duplicates=Duplicates(conflicts="stop"))
    with pytest.raises(WorkError, match=r"1 pairs of near-duplicates .*: a/a \(2\)\.png \(a\) and b/b \(20\)\.png"):
        prepare.run(config)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert pq.read_metadata(tmp_path / "out" / "duplicates.parquet").num_rows == 3
    dataset = prepare.run(replace(config, duplicates=Duplicates(conflicts="drop"), overwrite=True))
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in rejected] == [
        ("a/a (2).png", "label conflict: b/b (20).png is b (identical pixels)"),
        ("b/b (20).png", "label conflict: a/a (2).png is a (identical pixels)"),
    ]
    assert dataset.card.rejected == 2
    assert len(read(dataset)) == 25


def test_folds(tmp_path: Path, ray_session: None) -> None:
    source = unmasked(tmp_path / "set")
    dataset = prepare.run(Prepare([str(source)], str(tmp_path / "out"), split=Split(folds=5)))
    frame = read(dataset)
    assert (frame.groupby("group")["fold"].nunique() == 1).all()
    assert set(zip(frame["fold"], frame["split"], strict=True)) == {
        (0, "test"),
        (1, "val"),
        (2, "train"),
        (3, "train"),
        (4, "train"),
    }
    other = prepare.run(Prepare([str(source)], str(tmp_path / "other"), split=Split(folds=5, seed=1)))
    assert other.card.fingerprint != dataset.card.fingerprint


def test_a_split_of_the_users_own(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    source = unmasked(tmp_path / "set")
    paths = sorted(file.relative_to(source).as_posix() for file in source.rglob("*.png"))
    sides = {path: ("train", "val", "test")[i % 3] for i, path in enumerate(paths)}
    sides |= {"a/a (1).png": "train", "a/a (20).png": "test"}
    table = tmp_path / "own.csv"
    table.write_text("path,side\n" + "".join(f"{path},{side}\n" for path, side in sides.items()))
    config = Prepare([str(source)], str(tmp_path / "out"), split=Split(column=f"{table}:side"))
    dataset = prepare.run(config)
    assert dict(read(dataset)[["id", "split"]].itertuples(index=False)) == sides
    assert dataset.card.leaks["identical"] >= 1
    assert "LEAKS: the given split puts" in capsys.readouterr().out
    table.write_text(table.read_text().replace("b/b (3).png,", "b/b (3).png,train\nx,"))
    with pytest.raises(RequestError, match=r"the table of labels\.column, split\.group_by or split\.column says"):
        prepare.run(config)
