"""Features of several extractors, by one pass of the network where they are blocks of the same one.

Shapes: ``H, W`` image pixels; ``D, h, w`` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def extract_each(extractors: Sequence[Any], images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """What each of ``extractors`` gives for ``images`` uint8 (H, W, 3): a list of float32 (D, h, w) for each.

    An extractor may have the methods of `u2seg.plugins.api.SharesPass`; else it has a pass of its own.
    """
    if not images:
        return [[] for _ in extractors]
    results: dict[int, list[np.ndarray]] = {}
    distinct = list({id(extractor): extractor for extractor in extractors}.values())
    for extractor in distinct:
        if id(extractor) in results:
            continue
        shares = getattr(extractor, "shares_pass", lambda _: False)
        others = [other for other in distinct if other is not extractor and id(other) not in results and shares(other)]
        features = extractor.extract_with(images, others) if others else [extractor.extract(images)]
        results |= {id(owner): arrays for owner, arrays in zip([extractor, *others], features, strict=True)}
    return [results[id(extractor)] for extractor in extractors]
