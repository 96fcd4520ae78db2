"""Baselines of `feed.py`: torch's DataLoader and SPDL (https://github.com/facebookresearch/spdl) on the same images.

Both call the functions of this project for each image, so that the data paths are compared and not the decoders. They
stack uint8 batches in the order of the images. SPDL is no dependency: ``uv run --with spdl ...``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

FEED_BATCH = 32
"""images in a batch of a baseline"""
LoadImage = Callable[[int], NDArray[np.uint8]]
"""number of an image -> pixels (size, size, 3)"""


@dataclass(frozen=True)
class _Numbered(Dataset[NDArray[np.uint8]]):
    """Dataset of so many images, made by a function."""

    load: LoadImage
    images: int

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.load(index)


def data_loader_batches(load: LoadImage, images: int, cores: int) -> Iterator[int]:
    """Yield the sizes of the batches of a DataLoader with a process for each core."""
    batch: Tensor
    for batch in DataLoader(_Numbered(load, images), batch_size=FEED_BATCH, num_workers=cores):
        yield len(batch)


def spdl_batches(load: LoadImage, images: int, cores: int) -> Iterator[int]:
    """Yield the sizes of the batches of SPDL with a thread for each core."""
    package: Any = import_module("spdl.pipeline")
    builder = package.PipelineBuilder().add_source(range(images))
    builder = builder.pipe(load, concurrency=cores, output_order="input").aggregate(FEED_BATCH).pipe(np.stack)
    pipeline = builder.add_sink(3).build(num_threads=cores)
    with pipeline.auto_stop():
        for batch in pipeline.get_iterator():
            yield len(batch)
