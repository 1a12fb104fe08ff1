"""Stuff by k-means."""

import pytest

from u2seg.plugins import checks
from u2seg.pseudo.stuff.kmeans import KMeansStuff


@pytest.mark.parametrize("args", [{}, {"pca": 0}, {"pca": 0, "whiten": False}, {"blur": 1, "min_share": 0}])
def test_contract(args):
    segmenter = KMeansStuff(num_classes=3, random_state=0, **args)
    checks.check_stuff_segmenter(segmenter)
    checks.check_picklable(segmenter)
