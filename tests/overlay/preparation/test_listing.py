import hashlib
from pathlib import Path

import pytest

from overlay.config import Labels, Prepare, Split
from overlay.errors import RequestError
from overlay.images.phantoms import write_phantoms
from overlay.preparation.listing import create_request, list_sources


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "set", images_per_class=3, seed=0)
    return tmp_path / "set"


def test_the_manifest_is_in_the_order_of_a_hash_of_the_ids(source: Path, tmp_path: Path) -> None:
    counts: list[int] = []
    listed = list_sources(Prepare(sources=[str(source)], out="unused"), tmp_path, counts.append)
    manifest = listed.manifest.manifest
    refs = [ref for group in range(manifest.groups) for ref in manifest.read_group(group)]
    ids = [f"{label}/{label} ({number}).png" for label in ("benign", "malignant", "normal") for number in (1, 2, 3)]
    assert [ref.id for ref in refs] == sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())
    assert (listed.classes.classes, listed.sources.images, counts[-1]) == (["benign", "malignant", "normal"], 9, 9)
    assert listed.tables == ""


def test_the_request_depends_on_the_values_of_a_table(source: Path, tmp_path: Path) -> None:
    ids = [f"{label}/{label} ({number}).png" for label in ("benign", "malignant", "normal") for number in (1, 2, 3)]
    requests = []
    for groups in ("abc", "abd"):
        rows = [f"{id},{id[0]}{groups[index % 3]}" for index, id in enumerate(ids)]
        (tmp_path / "groups.csv").write_text("\n".join(["id,patient", *rows]) + "\n")
        split = Split(group_by=f"{tmp_path / 'groups.csv'}:patient")
        config = Prepare(sources=[str(source)], out="unused", split=split)
        requests.append(create_request(config, list_sources(config, tmp_path, lambda _: None)))
    assert requests[0].sources == [str(source)]
    difference = requests[0].difference(requests[1])
    assert difference == "the table of labels.column, split.group_by or split.column says something else now"


def test_a_class_with_too_few_images_is_refused(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "set", images_per_class={"benign": 3, "malignant": 2}, seed=0)
    config = Prepare(sources=[str(tmp_path / "set")], out="unused")
    with pytest.raises(RequestError, match="class malignant has 2 images, too few to be in train, val and test"):
        list_sources(config, tmp_path, lambda _: None)


def labelled(
    source: Path, tmp_path: Path, table: str, **names: str
) -> tuple[dict[str, tuple[str | None, str | None]], list[str]]:
    """List a source with labels from a table; return id -> label and reason, and the remarks."""
    (tmp_path / "t.csv").write_text(table)
    labels = Labels(f"{tmp_path / 't.csv'}:dx", names)
    listed = list_sources(Prepare([str(source)], "unused", labels=labels), tmp_path, lambda _: None)
    manifest = listed.manifest.manifest
    refs = [ref for group in range(manifest.groups) for ref in manifest.read_group(group)]
    return {ref.id: (ref.label, ref.reason) for ref in refs}, listed.remarks


def test_labels_from_a_table_beside_a_flat_folder(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "images" / f"{i}.png").touch()
    table = "image;dx\n" + "".join(f"{i};{'0' if i < 3 else 1}\n" for i in range(6)) + "9;1\n"
    labels, remarks = labelled(tmp_path / "set", tmp_path, table, **{"0": "benign", "1": "malignant"})
    assert labels == {
        **{f"images/{i}.png": ("benign" if i < 3 else "malignant", None) for i in range(6)},
        "images/6.png": (None, f"image without a label in the table {tmp_path}/t.csv:dx"),
    }
    assert [remark.partition("t.csv: ")[2] for remark in remarks] == [
        "6 of 7 images are found, by stem in its column image",
        "1 rows without an image: 9",
    ]
    with pytest.raises(RequestError, match=r"labels\.map has no name for 1; give each number the name of its class"):
        labelled(tmp_path / "set", tmp_path, table, **{"0": "benign"})


def test_a_table_of_labels_goes_before_the_folders(source: Path, tmp_path: Path) -> None:
    kinds = ("benign", "malignant", "normal")
    names = [f"{kind}/{kind} ({number}).png" for kind in kinds for number in (1, 2, 3)]
    table = "id,dx\n" + "".join(f"{name},{'Sick' if name[0] == 'm' else 'healthy'}\n" for name in names)
    labels, _ = labelled(source, tmp_path, table, Sick="sick")
    assert {name: label for name, (label, _) in labels.items()} == {
        name: "sick" if name[0] == "m" else "healthy" for name in names
    }


def test_labels_of_folders_are_mapped(source: Path, tmp_path: Path) -> None:
    config = Prepare([str(source)], "unused", labels=Labels(map={"benign": "not cancer", "normal": "not cancer"}))
    listed = list_sources(config, tmp_path, lambda _: None)
    assert listed.classes.usable == {"malignant": 3, "not cancer": 6}
    assert create_request(config, listed).difference(create_request(Prepare([str(source)], "unused"), listed)) == (
        "labels.map.benign is 'not cancer' there and None here"
    )


@pytest.mark.parametrize("by", ["table", "pattern"])
def test_groups_for_some_images_only_are_refused(source: Path, tmp_path: Path, by: str) -> None:
    (tmp_path / "p.csv").write_text("id,patient\nbenign/benign (1).png,7\nbenign/benign (2).png,7\n")
    rule = f"{tmp_path / 'p.csv'}:patient" if by == "table" else r"benign \(([12])\)"
    with pytest.raises(RequestError, match=r"7 of 9 images have no group by .*--split\.ungrouped single"):
        list_sources(Prepare([str(source)], "unused", split=Split(group_by=rule)), tmp_path, lambda _: None)
    if by == "pattern":
        split = Split(group_by=rule, ungrouped="single")
        listed = list_sources(Prepare([str(source)], "unused", split=split), tmp_path, lambda _: None)
        assert listed.remarks == ["7 of 9 images have no group; each is a group of its own"]


def test_a_foreign_set_is_not_divided_so_a_class_may_be_small(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "set", images_per_class={"benign": 3, "malignant": 1}, seed=0)
    config = Prepare(sources=[str(tmp_path / "set")], out="unused", split=Split(only="test"))
    assert list_sources(config, tmp_path, lambda _: None).classes.classes == ["benign", "malignant"]
    with pytest.raises(RequestError, match=r"split.only is test, so there is nothing to divide; leave split.folds and"):
        Split(only="test", folds=5)
