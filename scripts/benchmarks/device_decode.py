"""Benchmark of what a GPU could take from its cores: JPEGs decoded by nvJPEG, and images resized on the device.

    uv run python scripts/benchmarks/device_decode.py

Rates in images/s of one core, by our decoder and resizer, beside those of the GPU, on phantoms of 480 x 400 and 1024 x
768 pixels, and the largest and the mean difference between both ways in grey levels. An image that is resized on the
device is sent to its process, and copied to it, as it is: bytes an image stand beside the rates.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import decode_jpeg

from overlay.images import phantoms
from overlay.images.codec import decode_image, encode_png
from overlay.images.resize import decode_target, resize_image
from scripts.benchmarks.decoder_differences import grey_difference

_GPU = torch.device("cuda")
_Pixels = NDArray[np.uint8]


def _core_rate(work: Callable[[int], object], count: int) -> float:
    """Return calls a second of one core."""
    began = time.process_time()
    for number in range(count):
        work(number)
    return count / (time.process_time() - began)


def _gpu_rate(work: Callable[[], object], images: int) -> float:
    """Return images/s of a call that gives the device work for so many images; median of five."""
    seconds = []
    for _ in range(7):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return images / float(np.median(seconds[2:]))


def _resize_on_gpu(pixels: Tensor, size: int) -> Tensor:
    """Resize uint8 (n, 3, height, width) as Pillow's bilinear filter does, to (n, 3, size, size)."""
    resized = interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _jpeg(image: _Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no GPU")
    size: int = options.size
    print(f"| images of {size} px from | one core, images/s | GPU, images/s | largest (mean) difference | bytes |")
    print("| --- | --- | --- | --- | --- |")
    for width, height in ((480, 400), (1024, 768)):
        drawn = [phantoms.draw_phantom("benign", seed=0, index=index)[0] for index in range(options.images)]
        images = [np.asarray(Image.fromarray(image).resize((width, height))) for image in drawn]
        _measure_jpeg(images, size)
        _measure_resize(images, size)


def _measure_jpeg(images: Sequence[_Pixels], size: int) -> None:
    height, width, _ = images[0].shape
    files = [_jpeg(image) for image in images]
    target = decode_target(size, "squash")
    ours = [resize_image(decode_image(file, target=target), size, "squash") for file in files]
    buffers = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]

    def on_gpu() -> Tensor:
        return torch.cat([_resize_on_gpu(image[None], size) for image in decode_jpeg(buffers, device=_GPU)])

    core = _core_rate(lambda i: resize_image(decode_image(files[i], target=target), size, "squash"), len(files))
    alone = _gpu_rate(lambda: decode_jpeg(buffers, device=_GPU), len(files))
    print(f"| JPEG {width} x {height}, decoded | | {alone:.0f} | | {len(files[0]):,} |")
    theirs = on_gpu().permute(0, 2, 3, 1).cpu().numpy()
    rate, apart = _gpu_rate(on_gpu, len(files)), grey_difference(np.stack(ours), theirs)
    print(f"| JPEG {width} x {height}, decoded and resized | {core:.0f} | {rate:.0f} | {apart} | {len(files[0]):,} |")


def _measure_resize(images: Sequence[_Pixels], size: int) -> None:
    height, width, _ = images[0].shape
    stacked = torch.from_numpy(np.stack(images)).pin_memory()
    on_device = stacked.to(_GPU).permute(0, 3, 1, 2)
    pngs = [encode_png(image) for image in images]
    core = _core_rate(lambda i: resize_image(images[i], size, "squash"), len(images))
    decoding = _core_rate(lambda i: decode_image(pngs[i], target=decode_target(size, "squash")), len(images))
    rate = _gpu_rate(lambda: _resize_on_gpu(on_device, size), len(images))
    copying = _gpu_rate(lambda: stacked.to(_GPU, non_blocking=True), len(images))
    ours = [resize_image(image, size, "squash") for image in images]
    theirs = _resize_on_gpu(on_device, size).permute(0, 2, 3, 1).cpu().numpy()
    apart = grey_difference(np.stack(ours), theirs)
    print(f"| PNG {width} x {height}, decoded | {decoding:.0f} | | | {len(pngs[0]):,} |")
    print(f"| pixels {width} x {height}, resized | {core:.0f} | {rate:.0f} | {apart} | {images[0].nbytes:,} |")
    print(f"| pixels {width} x {height}, copied from pinned memory | | {copying:.0f} | | {images[0].nbytes:,} |")


if __name__ == "__main__":
    main()
