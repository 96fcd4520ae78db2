import hashlib
from pathlib import Path

import pytest

from overlay.config import Prepare, Split
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
    assert difference == "the table of split.group_by or split.column says something else now"


def test_a_class_with_too_few_images_is_refused(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "set", images_per_class={"benign": 3, "malignant": 2}, seed=0)
    config = Prepare(sources=[str(tmp_path / "set")], out="unused")
    with pytest.raises(RequestError, match="class malignant has 2 images, too few to be in train, val and test"):
        list_sources(config, tmp_path, lambda _: None)
