"""u2seg's own check of the contract: run it with ``pytest examples/border_masks``."""

from u2seg_border_masks import BorderMasks

from u2seg.plugins.checks import check_mask_generator


def test_border_masks_keep_the_contract():
    check_mask_generator(BorderMasks())
