"""The "ink and wash" filter: what the quickstart's bridge learns to paint.

A drawing in ink and wash has three things a colour map cannot give: washes of a few flat tones,
pigment that gathers where a wash ends, and lines of ink along the edges of things. All three
are made of smooth functions (Gaussians and sigmoids, no hard threshold), so a small model can
learn them, while the best affine colour map stays far away.

The filter sees one finished crop and nothing else; beyond the border it repeats the edge pixel.
So nothing outside a crop can reach its target.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, sobel

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class InkAndWash:
    """Parameters of the filter. Lengths are in pixels of the crop, tones in [0, 1]."""

    smoothing_px: float = 0.9
    # Washes: a tone above thresholds[i] is painted with washes[i + 1], darkest first.
    thresholds: tuple[float, ...] = (0.15, 0.31, 0.49)
    softness: float = 0.03
    washes_rgb: tuple[tuple[int, int, int], ...] = (
        (44, 48, 72),  # indigo
        (112, 116, 134),  # blue grey
        (206, 190, 164),  # ochre
        (250, 241, 220),  # bare paper
    )
    # A painter opens up the shadows: tones are moved towards the middle by what surrounds them.
    surround_px: float = 8.0
    dodge: float = 0.2
    dodge_middle: float = 0.5
    rim: float = 0.2  # how much darker a wash is at its rim
    rim_offset: float = 0.02
    chroma: float = 0.5  # share of the photograph's colour that stays as a tint
    # Lines: where the gradient is steep, and more so on the dark side of the edge.
    line_rgb: tuple[int, int, int] = (22, 20, 30)
    line_gradient: float = 0.6
    line_dark_side: float = 1.2
    line_threshold: float = 0.07
    line_softness: float = 0.02
    line_opacity: float = 0.92


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def ink_and_wash(photo: np.ndarray, p: InkAndWash = InkAndWash()) -> np.ndarray:
    """Paints a photograph [H, W, 3] of uint8 and returns the picture in the same form."""
    photo = photo / 255.0
    grey = photo @ LUMA
    smooth = blur(photo, p.smoothing_px)
    tone = smooth @ LUMA
    surround = blur(grey, p.surround_px)

    picture = lay_washes(tone + p.dodge * (p.dodge_middle - surround), p)
    picture += p.chroma * (smooth - tone[..., None])

    ink = (p.line_opacity * draw_lines(grey, tone, p))[..., None]
    picture = (1.0 - ink) * picture + ink * np.array(p.line_rgb) / 255.0
    return np.rint(picture.clip(0.0, 1.0) * 255.0).astype(np.uint8)


def blur(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    return gaussian_filter(picture, sigma_px, mode="nearest", axes=(0, 1))


def lay_washes(tone: np.ndarray, p: InkAndWash) -> np.ndarray:
    """Tones [H, W] to colours [H, W, 3]: soft steps from wash to wash, each with a darker rim."""
    wash = sum(sigmoid((tone - t) / p.softness) for t in p.thresholds)
    colours = np.array(p.washes_rgb) / 255.0
    picture = np.stack([np.interp(wash, range(len(colours)), c) for c in colours.T], axis=-1)

    # The darkest wash has no darker rim: it would be lost in the ink.
    below = [sigmoid((tone - t + p.rim_offset) / p.softness) for t in p.thresholds[1:]]
    rims = sum(4.0 * s * (1.0 - s) for s in below)
    return picture * (1.0 - p.rim * rims)[..., None]


def draw_lines(grey: np.ndarray, tone: np.ndarray, p: InkAndWash) -> np.ndarray:
    """How much ink [H, W] in [0, 1] lies on each pixel."""
    gradient = np.hypot(sobel(tone, 0, mode="nearest"), sobel(tone, 1, mode="nearest")) / 4.0
    dark_side = blur(grey, 2.0 * p.smoothing_px) - tone
    line = p.line_gradient * gradient + p.line_dark_side * dark_side
    return sigmoid((line - p.line_threshold) / p.line_softness)
