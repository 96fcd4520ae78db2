import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from overlay.evaluation import estimates, figures

BACKGROUND, BLUE, ORANGE, GREEN = (255, 255, 255), (0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)


def decode(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.info["dpi"] == pytest.approx((150, 150), rel=1e-3)
        return np.asarray(picture.convert("RGB"))


def count(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(axis=2).sum())


def history(epochs: int) -> dict[str, list[float]]:
    falling = [1 / (1 + epoch) for epoch in range(epochs)]
    rising = [1 - 0.5 * value for value in falling]
    return {
        "epoch": list(range(1, epochs + 1)),
        "train_loss": falling,
        "train_accuracy": rising,
        "val_loss": [value + 0.1 for value in falling],
        "val_accuracy": [value - 0.05 for value in rising],
        "val_macro_f1": [value - 0.1 for value in rising],
        "learning_rate": [3e-4] * epochs,
        "images_per_second": [10.0] * epochs,
        "seconds": [1.0] * epochs,
    }


def evaluation(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: list[str]) -> estimates.Evaluation:
    return estimates.compute_evaluation(labels, np.eye(len(classes))[predicted], classes)


@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_curves_of_any_length_fit_the_same_picture(epochs: int) -> None:
    pixels = decode(figures.draw_curves(history(epochs), best_epoch=epochs))
    assert pixels.shape == (600, 1500, 3)
    left, right = pixels[:, :750], pixels[:, 750:]
    for panel, colours in ((left, (BLUE, ORANGE)), (right, (BLUE, ORANGE, GREEN))):
        assert all(count(panel, colour) > 20 for colour in colours)
    assert count(left, GREEN) == 0
    assert count(pixels, BACKGROUND) > 0.7 * 600 * 1500


def test_the_best_epoch_is_marked() -> None:
    plain = decode(figures.draw_curves(history(9)))
    assert (plain != decode(figures.draw_curves(history(9), best_epoch=3))).any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_curves_of_a_diverged_run_are_drawn(broken: float) -> None:
    columns = history(4) | {"train_loss": [0.9, 1.5, broken, broken], "val_loss": [broken] * 4}
    assert decode(figures.draw_curves(columns, best_epoch=1)).shape == (600, 1500, 3)


def test_hits_of_a_confusion_matrix_are_blue_and_errors_orange() -> None:
    labels = np.array([0] * 30 + [1] * 3)
    right = decode(figures.draw_confusion_matrix(evaluation(labels, labels, ["a", "b"])))
    wrong = decode(figures.draw_confusion_matrix(evaluation(labels, 1 - labels, ["a", "b"])))
    # Shares of the row decide, so three of three are as strong as thirty of thirty.
    assert [count(picture, BLUE) > 30_000 for picture in (right, wrong)] == [True, False]
    assert [count(picture, ORANGE) > 30_000 for picture in (right, wrong)] == [False, True]


@pytest.mark.parametrize("classes", [2, 20])
def test_confusion_matrix_grows_with_the_classes_up_to_a_limit(classes: int) -> None:
    labels = np.arange(2 * classes) % classes
    pixels = decode(figures.draw_confusion_matrix(evaluation(labels, labels, [f"class {i}" for i in range(classes)])))
    side = min(1.15 * classes, 16)
    assert pixels.shape[:2] == (int((side + 1.6) * 150), int((side + 2.2) * 150))


def test_names_that_matplotlib_would_interpret_are_drawn_as_they_are() -> None:
    labels = np.array([0, 1, 2, 3])
    odd = evaluation(labels, labels, ["$cost$", "_hidden", r"\frac{", "$"])
    assert decode(figures.draw_confusion_matrix(odd)).shape == (930, 1020, 3)


def test_a_picture_is_the_same_each_time_and_nothing_global_is_touched() -> None:
    import sys

    first = figures.draw_curves(history(5), best_epoch=2)
    assert first == figures.draw_curves(history(5), best_epoch=2)
    if "matplotlib.pyplot" in sys.modules:
        from matplotlib import pyplot

        assert pyplot.get_fignums() == []
