"""Which masks of a photo are painted."""

import numpy as np
import pytest

from u2seg.config import fill, get_pseudo_cfg
from u2seg.pseudo.intermediate import MaskRecord
from u2seg.pseudo.painting import merge_photo
from u2seg.pseudo.recipe import Recipe
from u2seg.structures import MaskSet


@pytest.mark.parametrize(
    ("min_score", "min_things", "painted"),
    [(0.5, 0, {1}), (0.5, 1, {1}), (0.5, 2, {1, 2}), (0.9, 0, set()), (0.9, 1, {1}), (0.0, 0, {0, 1, 2})],
)
def test_those_that_score_enough_and_the_best(min_score, min_things, painted):
    cfg = get_pseudo_cfg()
    fill(cfg, options=["U2SEG.MERGE.MIN_SCORE", str(min_score), "U2SEG.MERGE.MIN_THINGS", str(min_things)])
    masks = np.repeat(np.eye(3, dtype=bool), 4, axis=0).reshape(3, 4, 3)
    record = MaskRecord(MaskSet(masks, np.float32([0.1, 0.7, 0.3])), None, (4, 3), {})
    _, entry = merge_photo(Recipe.from_config(cfg), record, np.zeros(3, np.int64), np.full((4, 3), 255, np.uint8))
    assert {index for index, each in enumerate(entry["instances"]) if each["segment_id"]} == painted
