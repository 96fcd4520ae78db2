from types import SimpleNamespace
from typing import Any, cast

from overlay.config import Images, OverlayStyle, Train
from pipelines.training.setup import TrainingSetup


def test_the_models_card_says_how_the_dataset_treats_images() -> None:
    """So that a prediction draws, reduces and scales its inputs in the same way."""
    contour = OverlayStyle(style="contour")
    request = SimpleNamespace(overlay=contour, max_pixels=10**6, images=Images(bits=12), max_side=512)
    card = SimpleNamespace(request=request, classes=["a", "b"], fingerprint="f")
    weights = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    dataset = cast(Any, SimpleNamespace(card=card, fold=None))
    made = TrainingSetup.create(Train(dataset="d", out="o"), dataset, cast(Any, weights), cast(Any, None)).card
    assert (made.overlay, made.max_pixels, made.bits, made.max_side) == (contour, 10**6, 12, 512)
