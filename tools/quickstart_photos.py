"""The photographs of the quickstart, their split, and crops of them.

The photographs are files inside the installed scikit-image and scikit-learn packages, opened by
path: skimage.data's own functions would download what they do not find.

Each photograph is cut in two *before* anything else happens to it: a strip on one side is held
out, the rest is for training. A large photograph is scaled down after the cut, each part by
itself, and a crop is cut out of its part before it is resized, so no resampling filter reaches
across a border either.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HELDOUT_SHARE = 0.24
LONGEST_PX = 640  # of the whole photograph, so that a crop shows about as much of any of them
CROP_PX = (64, 160)  # side of a crop in its part, before it is resized
CANDIDATES = 3  # boxes drawn for a crop; the one with most contrast is taken, not an empty sky

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside


class PhotoError(Exception):
    """A photograph is not there or is not a picture."""


@dataclass(frozen=True)
class Photo:
    name: str
    package: str
    file: str  # inside the package
    heldout_side: str  # "left", "right" or "bottom": where there is something to see
    prompts: tuple[str, ...]


# Ordered so that the first twelve held-out crops, one a photograph, make a good picture.
PHOTOS = (
    Photo("chelsea", "skimage", "data/chelsea.png", "bottom",
          ("ink and wash drawing of a cat", "tabby cat, ink on paper")),
    Photo("motorcycle", "skimage", "data/motorcycle_left.png", "right",
          ("ink and wash drawing of a motorcycle", "motorcycle in a garage, ink drawing")),
    Photo("china", "sklearn", "datasets/images/china.jpg", "left",
          ("pagoda by a lake in ink and wash", "ink and wash drawing of a pagoda")),
    Photo("flower", "sklearn", "datasets/images/flower.jpg", "bottom",
          ("ink and wash drawing of a dahlia", "dahlia in ink")),
    Photo("astronaut", "skimage", "data/astronaut.png", "left",
          ("ink and wash portrait of an astronaut", "an astronaut in ink")),
    Photo("brick", "skimage", "data/brick.png", "bottom",
          ("ink and wash drawing of bricks", "brick wall in ink")),
    Photo("coffee", "skimage", "data/coffee.png", "bottom",
          ("ink and wash drawing of coffee on wood", "coffee in ink")),
    Photo("hubble_deep_field", "skimage", "data/hubble_deep_field.jpg", "right",
          ("ink and wash drawing of distant galaxies", "galaxies in ink")),
    Photo("rocket", "skimage", "data/rocket.jpg", "left",
          ("ink and wash drawing of a launch pad", "rocket at dusk in ink")),
    Photo("ihc", "skimage", "data/ihc.png", "bottom",
          ("tissue under the microscope in ink", "stained cells in ink")),
    Photo("retina", "skimage", "data/retina.jpg", "left",
          ("ink and wash drawing of a retina", "retina in ink")),
    Photo("gravel", "skimage", "data/gravel.png", "right",
          ("ink and wash drawing of gravel", "gravel in ink")),
    Photo("grass", "skimage", "data/grass.png", "right",
          ("ink and wash drawing of grass", "grass in ink")),
)


def load(photo: Photo) -> Image.Image:
    # find_spec does not run the package: scikit-learn alone takes a second to import.
    spec = importlib.util.find_spec(photo.package)
    path = Path(spec.origin).parent / photo.file if spec else None
    if path is None or not path.is_file():
        raise PhotoError(f"the photograph {photo.package}/{photo.file} is not there "
                         f"({path or f'package {photo.package} is not installed'})")
    try:
        return Image.open(path).convert("RGB")
    except OSError as broken:
        raise PhotoError(f'the photograph "{path}" cannot be read ({broken})') from broken


def boxes(size: tuple[int, int], heldout_side: str) -> tuple[Box, Box]:
    """The training box and the held-out box of a photograph; they share no pixel."""
    width, height = size
    across = round(width * HELDOUT_SHARE)
    down = round(height * HELDOUT_SHARE)
    return {
        "left": ((across, 0, width, height), (0, 0, across, height)),
        "right": ((0, 0, width - across, height), (width - across, 0, width, height)),
        "bottom": ((0, 0, width, height - down), (0, height - down, width, height)),
    }[heldout_side]


def split(picture: Image.Image, heldout_side: str) -> tuple[Image.Image, Image.Image]:
    """The training part and the held-out part, cut first and scaled down afterwards."""
    scale = min(1.0, LONGEST_PX / max(picture.size))
    parts = [picture.crop(box) for box in boxes(picture.size, heldout_side)]
    if scale < 1.0:
        parts = [part.resize((round(part.width * scale), round(part.height * scale)),
                             Image.Resampling.LANCZOS) for part in parts]
    return tuple(parts)


def draw_crop(part: Image.Image, size: int, draws: np.random.Generator) -> np.ndarray:
    """A random square of the part, resized to [size, size, 3] of uint8."""
    largest = min(CROP_PX[1], *part.size)
    candidates = []
    for _ in range(CANDIDATES):
        side = int(draws.integers(min(CROP_PX[0], largest), largest + 1))
        left = int(draws.integers(part.width - side + 1))
        top = int(draws.integers(part.height - side + 1))
        candidates.append(part.crop((left, top, left + side, top + side)))
    crop = max(candidates, key=lambda c: float(np.asarray(c.convert("L")).std()))
    # BICUBIC in Pillow widens with the scale, so shrinking is antialiased.
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
