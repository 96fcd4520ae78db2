"""Phantoms: synthetic breast ultrasound with lesion masks, for the demo and the tests.

Layers of skin, fat, gland and muscle under speckle. Benign lesions tend to be smooth and wider than tall, grey and even
inside, with posterior enhancement; malignant ones to be spiculated and taller than wide, dark and uneven inside, with
posterior shadowing; normal images have none (the signs of BI-RADS). The outlines of the two classes overlap, so that a
classifier of masks makes mistakes which the pixels inside the lesion would spare it. Phantoms test the software from
end to end and are no evidence about patients.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.images.codec import encode_png

PhantomClass = Literal["benign", "malignant", "normal"]
PHANTOM_CLASSES: tuple[PhantomClass, ...] = ("benign", "malignant", "normal")
Field = NDArray[np.float32]
"""(height, width), or (1, width): brightness from about 0 (black) to 1 (white), or a summand of it"""


@dataclass(frozen=True)
class Lesion:
    """Centre of a lesion (pixels) and its outline."""

    x: float
    y: float
    half_width: float
    half_height: float
    outline: NDArray[np.float64]
    """(n,): distance of the outline from the centre in each direction, from -pi to pi, in half axes"""

    def distance(self, height: int, width: int) -> Field:
        """Return the relative distance of each pixel from the centre, (height, width): 1 on the outline."""
        across = (np.arange(width, dtype=np.float32) - self.x) / self.half_width
        down = (np.arange(height, dtype=np.float32)[:, None] - self.y) / self.half_height
        turn = np.arctan2(down, across) * ((len(self.outline) - 1) / (2 * math.pi)) + (len(self.outline) - 1) / 2
        outline: Field = self.outline.astype(np.float32)
        distance: Field = np.hypot(across, down) / np.take(outline, np.rint(turn).astype(np.intp))
        return distance


def write_phantoms(folder: Path, *, images_per_class: int | Mapping[str, int], seed: int) -> None:
    """Write a phantom dataset in the layout of BUSI: ``benign/benign (1).png``, ``benign/benign (1)_mask.png``.

    Images are 8-bit RGB PNG, masks 1-bit PNG; some benign images have a second lesion in ``_mask_1.png``, and masks of
    normal images are black. Image i of a class depends on the seed, the class and i alone, not on the number of images.

    ``images_per_class``: one number for all three classes, or a number for each class by its name.
    """
    counts = (
        images_per_class if isinstance(images_per_class, Mapping) else dict.fromkeys(PHANTOM_CLASSES, images_per_class)
    )
    for name in PHANTOM_CLASSES:
        if counts.get(name, 0) > 0:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(1, counts.get(name, 0) + 1):
            write_phantom(folder / name, name, seed=seed, index=index)


def write_phantom(folder: Path, name: PhantomClass, *, seed: int, index: int) -> None:
    """Write one phantom and its masks into the folder of its class."""
    image, masks = draw_phantom(name, seed=seed, index=index)
    (folder / f"{name} ({index}).png").write_bytes(encode_png(image))
    for number, mask in enumerate(masks):
        suffix = "_mask" if number == 0 else f"_mask_{number}"
        (folder / f"{name} ({index}){suffix}.png").write_bytes(encode_png(mask))


def draw_phantom(name: PhantomClass, *, seed: int, index: int) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Return a phantom, uint8 (height, width, 3), and its masks, bool (height, width): at least one, perhaps empty."""
    random = np.random.default_rng((seed, PHANTOM_CLASSES.index(name), index))
    height, width = int(random.integers(300, 400)), int(random.integers(340, 480))
    tissue = _tissue(random, height, width)
    masks = []
    for lesion in _lesions(name, random, height, width):
        distance = lesion.distance(height, width)
        draw = _draw_benign if name == "benign" else _draw_malignant
        draw(tissue, lesion, distance, random)
        masks.append(distance <= 1)
    speckle = _speckle(random, height, width)
    grey = np.clip(tissue + speckle * (0.25 + tissue), 0, 1) * 255
    grey[: int(random.integers(2, 5))] = 225  # the transducer's surface
    image = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
    return image, masks or [np.zeros((height, width), bool)]


def _tissue(random: np.random.Generator, height: int, width: int) -> Field:
    """Return skin, fat, gland and muscle with wavy borders, before lesions and speckle."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    skin = _border(random, height, width, random.uniform(0.03, 0.06), 0.003)
    fat = _border(random, height, width, random.uniform(0.17, 0.28), 0.03)
    gland = _border(random, height, width, random.uniform(0.58, 0.7), 0.03)
    muscle = _border(random, height, width, random.uniform(0.78, 0.9), 0.03)
    borders = ((skin, 3), (fat, 7), (gland, 10), (muscle, 16))
    in_fat, in_gland, in_muscle, deep = (np.clip((rows - row) / softness, 0, 1) for row, softness in borders)
    # Fibres follow the layers: each column of the noise is moved along with the gland's upper border.
    moved = np.clip(rows - fat + fat.mean(), 0, height - 1).astype(np.intp)
    fibres = np.take_along_axis(_noise(random, height, width, 5, 26), moved, 0)
    clumps = _noise(random, height, width, 13, 30)
    lobules = _noise(random, height, width, 30, 70)
    bright_lines = np.exp(-(((lobules + 0.25 * fibres) / 0.14) ** 2))
    # As a list, for float64 scalars of numpy would turn every field into float64.
    tones = random.normal([0.6, 0.38, 0.47, 0.3, 0.1], [0.05, 0.04, 0.05, 0.04, 0.03]).tolist()
    tissue: Field = tones[0] + (tones[1] - tones[0] + 0.16 * bright_lines + 0.02 * clumps) * in_fat
    tissue += (tones[2] - tones[1] - 0.08 * bright_lines + 0.08 * fibres + 0.06 * clumps + 0.05 * lobules) * in_gland
    tissue += (tones[3] - tones[2] + 0.03 * fibres - 0.05 * clumps) * in_muscle
    tissue += (tones[4] - tones[3] - 0.08 * fibres) * deep
    for row, brightness in ((skin, 0.25), (fat, 0.14), (gland, 0.2), (muscle, 0.22)):
        fascia = brightness * np.clip(_noise(random, 1, width, 1, 45) * 0.7 + 0.4, 0, 1.5)
        tissue += fascia * np.exp(-(((rows - row) / 2.2) ** 2))
    # Poor contact darkens whole columns, more so with depth; depth itself costs brightness as well.
    depth = rows / height
    contact = np.clip(_noise(random, 1, width, 1, 50) * 0.6 - 0.2, 0, 1) * np.clip(depth * 1.8 - 0.2, 0, 1)
    attenuation = np.clip((depth - 0.45) * random.uniform(0.5, 1.5), 0, 0.85)
    darkened: Field = np.clip(tissue, 0.02, 1) * (1 - 0.75 * contact) * (1 - attenuation)
    return darkened


def _lesions(name: PhantomClass, random: np.random.Generator, height: int, width: int) -> list[Lesion]:
    if name == "normal":
        return []
    x, y = random.uniform(0.3, 0.7) * width, random.uniform(0.36, 0.5) * height
    irregularity = float(np.clip(random.normal(0.35 if name == "benign" else 0.65, 0.25), 0, 1))
    lesions = [_lesion(random, (x, y), random.uniform(0.09, 0.16) * height, irregularity)]
    if name == "benign" and random.uniform() < 0.15:
        aside = x + math.copysign(random.uniform(0.28, 0.32) * width, width / 2 - x)
        lesions.append(_lesion(random, (aside, y * random.uniform(0.9, 1.1)), 0.045 * width, irregularity))
    return lesions


def _lesion(random: np.random.Generator, centre: tuple[float, float], radius: float, irregularity: float) -> Lesion:
    """Return a lesion; ``radius``: geometric mean; ``irregularity``: 0 (smooth and wide) to 1 (spiculated, tall)."""
    angles = np.linspace(-math.pi, math.pi, 721)
    outline = np.ones_like(angles)
    for wave in (2, 3, 5):
        outline += random.uniform(0.02, 0.1) / wave * 1.5 * np.sin(wave * angles + random.uniform(0, 2 * math.pi))
    for _ in range(round(14 * irregularity)):
        away = (angles - random.uniform(-math.pi, math.pi) + math.pi) % (2 * math.pi) - math.pi
        spike = random.uniform(0.1, 0.4) * irregularity
        outline += spike * np.exp(-(np.abs(away / random.uniform(0.06, 0.14)) ** 1.5))
    aspect = random.uniform(0.5, 0.8) + 0.6 * irregularity
    return Lesion(*centre, radius / math.sqrt(aspect), radius * math.sqrt(aspect), outline)


def _draw_benign(tissue: Field, lesion: Lesion, distance: Field, random: np.random.Generator) -> None:
    _darken(tissue, distance, random.uniform(0.2, 0.28), softness=0.2)
    height, width = tissue.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    # A thin capsule, bright where the beam meets it at a right angle: above and below.
    steep = np.abs(rows - lesion.y) / lesion.half_height
    tissue += 0.22 * np.clip(steep, 0, 1) ** 3 * np.exp(-(((distance - 1.05) / 0.05) ** 2))
    behind = _behind(lesion, height, width, spread=1.0, length=random.uniform(0.2, 0.4) * height)
    tissue += behind * (random.uniform(0.0, 0.2) + 0.4 * tissue)


def _draw_malignant(tissue: Field, lesion: Lesion, distance: Field, random: np.random.Generator) -> None:
    height, width = tissue.shape
    tissue += 0.1 * np.exp(-(((distance - 1.15) / 0.22) ** 2))
    inside = random.uniform(0.04, 0.12) + 0.04 * _noise(random, height, width, 12, 14)
    _darken(tissue, distance, inside, softness=0.3)
    shadow = _behind(lesion, height, width, spread=1.15, length=random.uniform(0.4, 1.0) * height)
    tissue *= 1 - random.uniform(0.1, 0.8) * shadow


def _darken(tissue: Field, distance: Field, inside: float | Field, softness: float) -> None:
    share = np.clip((1 + softness / 2 - distance) / softness, 0, 1)
    tissue += share * (np.maximum(inside, 0.02) - tissue)


def _behind(lesion: Lesion, height: int, width: int, *, spread: float, length: float) -> Field:
    """Return 0..1: 1 right behind the lesion, fading to its sides and over ``length`` pixels of depth."""
    across = np.clip(np.abs(np.arange(width, dtype=np.float32) - lesion.x) / (lesion.half_width * spread), 0, 1)
    lower = lesion.y + lesion.half_height * np.sqrt(1 - across**2)
    below = np.arange(height, dtype=np.float32)[:, None] - lower
    faded = np.clip(below / (0.25 * lesion.half_height), 0, 1) * np.exp(-np.maximum(below, 0) / length)
    behind: Field = (1 - across**3) * faded
    return behind


def _border(random: np.random.Generator, height: int, width: int, depth: float, waviness: float) -> Field:
    """Return the row of a layer's border in each column, (width,)."""
    x = np.linspace(0, 2 * math.pi, width)
    row = np.full(width, depth)
    for wave in (0.4, 0.9, 1.7, 3.1):
        row += waviness / (0.6 + wave) * random.normal() * np.sin(wave * x + random.uniform(0, 2 * math.pi))
    return (row * height).astype(np.float32)


def _noise(random: np.random.Generator, height: int, width: int, grain_y: float, grain_x: float) -> Field:
    """Return smooth noise of about unit variance, (height, width), its grains so many pixels high and wide."""
    coarse = random.standard_normal((math.ceil(height / grain_y) + 1, math.ceil(width / grain_x) + 1), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _speckle(random: np.random.Generator, height: int, width: int) -> Field:
    """Return log-compressed Rayleigh speckle about 0: the magnitude of many echoes that interfere."""
    shape = (round(height / 2), round(width / 3))
    real, imaginary = random.standard_normal((2, *shape), np.float32)
    echoes = np.log(np.hypot(real, imaginary) + 0.4)
    fine: Field = np.asarray(Image.fromarray(echoes).resize((width, height), Image.Resampling.BICUBIC))
    speckle: Field = 0.22 * (fine - fine.mean())
    return speckle
