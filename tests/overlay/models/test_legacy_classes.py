from argparse import Namespace
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import LabelEncoder

from overlay.errors import UnsupportedModel
from overlay.models.legacy_classes import find_class_names
from overlay.models.legacy_content import find_weights
from overlay.models.torch_file import read_torch_zip

NAMES = ("normal", "benign", "malignant")
FORWARD = {name: index for index, name in enumerate(NAMES)}
BACKWARD = dict(enumerate(NAMES))


def stored(content: Mapping[str, Any], folder: Path) -> Mapping[Any, Any]:
    """What a file holds beside a state_dict, after it was written and read."""
    stream = BytesIO()
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, **content}, stream)
    (folder / "m.pth").write_bytes(stream.getvalue())
    found = find_weights(read_torch_zip(folder / "m.pth"))
    assert found is not None
    return found.beside


def encoder() -> LabelEncoder:
    return LabelEncoder().fit(["b", "c", "a"])


@pytest.mark.parametrize(
    "content",
    [
        *({key: FORWARD} for key in ("class_to_idx", "label2id", "classToIdx", "label_to_index", "class_indices")),
        *({key: BACKWARD} for key in ("idx_to_class", "id2label", "idx2class", "int_to_label", "index_to_name")),
        *({key: FORWARD} for key in ("label_map", "class_mapping", "labels_map", "class_dict", "classes")),
        *({key: BACKWARD} for key in ("label_map", "class_mapping", "names", "labels", "CLASS_NAMES")),
        *({key: list(NAMES)} for key in ("classes", "names", "class_names", "labels", "categories", "target_names")),
        {"classes": NAMES},
        {"class_to_idx": {name: str(index) for name, index in FORWARD.items()}},
        {"idx_to_class": {str(index): name for name, index in FORWARD.items()}},
        {"class_to_idx": {name: float(index) for name, index in FORWARD.items()}},
        {"class_to_idx": BACKWARD},
        {"class_to_idx": {name: np.int64(index) for name, index in FORWARD.items()}},
        {"class_to_idx": {name: torch.tensor(index) for name, index in FORWARD.items()}},
        {"idx_to_class": {np.int32(index): np.str_(name) for index, name in BACKWARD.items()}},
        {"classes": np.array(NAMES)},
        {"classes": np.array(NAMES, dtype=object)},
        {"classes": "normal,benign,malignant"},
        {"classes": "['normal', 'benign', 'malignant']"},
        {"label_map": '{"0": "normal", "1": "benign", "2": "malignant"}'},
        {"hyper_parameters": {"id2label": BACKWARD}},
        {"hyper_parameters": {"model": {"class_names": list(NAMES)}, "lr": 0.1}},
        {"args": Namespace(classes=list(NAMES), lr=0.1)},
        {"config": Namespace(data={"label_map": FORWARD}, labels_of_training=[0, 1, 1, 2])},
        {"hparams": {"num_classes": 3, "classes": 3, "names": list(NAMES)}},
        {"id2label": BACKWARD, "label2id": FORWARD},
        {"labels": [0, 1, 1, 2, 0], "classes": list(NAMES)},
        {"optimizer": {"names": ["x", "y", "z"]}, "loss": 0.3, "best_acc": np.float64(0.5), "classes": list(NAMES)},
    ],
)
def test_names_are_read_in_the_order_of_the_outputs(content: Mapping[str, Any], tmp_path: Path) -> None:
    found = find_class_names(stored(content, tmp_path), 3)
    assert found is not None
    assert found.names == NAMES


def test_numbers_and_encoders_give_names(tmp_path: Path) -> None:
    for content, names in (
        ({"classes": [0, 1, 2]}, ("0", "1", "2")),
        ({"class_to_idx": {"1": 0, "2": 1, "3": 2}}, ("1", "2", "3")),
        ({"idx_to_class": {0: 2, 1: 3, 2: 4}}, ("2", "3", "4")),
        # Each direction is a mapping; the key says which one it is.
        ({"class_to_idx": {"0": 1, "1": 2, "2": 0}}, ("2", "0", "1")),
        ({"idx_to_class": {"0": 1, "1": 2, "2": 0}}, ("1", "2", "0")),
        ({"label_encoder": encoder()}, ("a", "b", "c")),
    ):
        found = find_class_names(stored(content, tmp_path), 3)
        assert found is not None
        assert found.names == names


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"label_map": {1: "a", 2: "b", 3: "c"}},
            "under label_map, and they are no names for the numbers 0 to 2 (1: a",
        ),
        ({"label_map": {0: 1, 1: 2, 2: 0}}, "it isn't clear whether they go from names to numbers"),
        ({"class_to_idx": {"a": 0, "b": 1, "c": 1}}, "they are no names for the numbers 0 to 2"),
        ({"class_to_idx": {"a": 0, "b": 1, "c": 2, "d": 2}}, "they are no names for the numbers 0 to 2"),
        ({"classes": ["a", "b", "a"]}, "they are no list of different names (a, b, a)"),
        ({"classes": [2, 0, 1]}, "they are no list of different names (2, 0, 1)"),
        ({"classes": [{"id": 0}, {"id": 1}, {"id": 2}]}, "they are no list of different names"),
        ({"idx_to_class": {0: {"name": "a"}, 1: {"name": "b"}, 2: {"name": "c"}}}, "they are no names for the numbers"),
        ({"classes": {"a", "b", "c"}}, "a set has no order that is known"),
        ({"label_map": "labels.json"}, "they stand in a file of their own, labels.json"),
        (
            {"classes": ["a", "b", "c"], "hyper_parameters": {"class_to_idx": {"b": 0, "a": 1, "c": 2}}},
            "has two orders of its classes, a, b, c under classes and b, a, c under hyper_parameters.class_to_idx",
        ),
    ],
)
def test_a_mapping_that_fits_is_read_or_refused(content: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel) as error:
        find_class_names(stored(content, tmp_path), 3)
    assert said in str(error.value)
    assert "--legacy.classes" in str(error.value)


def test_what_is_no_mapping_is_passed_over(tmp_path: Path) -> None:
    for content in ({}, {"classes": 3}, {"labels": torch.zeros(500)}, {"names": None}, {"labels": "train"}):
        assert find_class_names(stored(content, tmp_path), 3) is None
    other = find_class_names(stored({"classes": ["a", "b"]}, tmp_path), 3)
    assert other is not None
    assert (other.names, other.key) == (("a", "b"), "classes")
