"""The clusterer keeps the contract."""

import pytest

from u2seg.plugins import checks
from u2seg.pseudo.clusters import KMeans

CLUSTERERS = {
    "kmeans": KMeans,
    "kmeans-plain": lambda **args: KMeans(normalise=False, **args),
    "kmeans-mini": lambda **args: KMeans(mini_batch=True, **args),
}


@pytest.mark.parametrize("name", CLUSTERERS)
def test_contract(name):
    clusterer = CLUSTERERS[name](n_clusters=5, random_state=0)
    checks.check_clusterer(clusterer)
    checks.check_picklable(clusterer)
