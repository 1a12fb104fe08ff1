"""Five crops of each photo: what STEGO looks at in training.

Shapes: ``H, W`` pixels of a photo; ``P`` photos; ``N`` = 5 P crops. Crop ``i`` is place ``i % 5`` of photo ``i // 5``.

STEGO (ICLR 2022) cuts four corners and the centre, each half as high and wide as the photo, so that
patches of the frozen network cover smaller parts of the scene.
"""

from __future__ import annotations

import numpy as np

from u2seg.errors import DataError, UsageError

PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
"""Where a crop lies: share of the free room above it, and left of it."""

NUM_PLACES = len(PLACES)


def check_ratio(ratio: float) -> None:
    """Raise UsageError unless ``ratio``, side of a crop over side of the photo, lies in (0, 1]."""
    if not 0 < ratio <= 1:
        raise UsageError(f"STEGO.CROP_RATIO must lie above 0 and at most at 1, not {ratio}")


def crop(image: np.ndarray, place: int, ratio: float, min_side: int) -> np.ndarray:
    """One crop of ``image``.

    Args:
        image: uint8 (H, W, 3).
        place: index of `PLACES`.
        ratio: side of the crop over side of the photo.
        min_side: fewest pixels that a side of the crop may have.

    Returns:
        uint8 (ratio * H, ratio * W, 3), a view.

    Raises:
        DataError: the photo is too small.
    """
    height, width = round(image.shape[0] * ratio), round(image.shape[1] * ratio)
    if min(height, width) < min_side:
        raise DataError(
            f"{image.shape[1]} x {image.shape[0]} pixels are too few: a crop would have {width} x {height}, "
            f"and needs {min_side} (STEGO.MIN_CROP) on each side"
        )
    down, right = PLACES[place]
    top, left = round((image.shape[0] - height) * down), round((image.shape[1] - width) * right)
    return image[top : top + height, left : left + width]


def five_crops(image: np.ndarray, ratio: float, min_side: int) -> list[np.ndarray]:
    """All crops of ``image`` uint8 (H, W, 3), in the order of `PLACES`; raises as `crop` does."""
    return [crop(image, place, ratio, min_side) for place in range(NUM_PLACES)]
