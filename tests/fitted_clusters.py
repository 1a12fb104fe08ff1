"""What a label run has learnt of its masks, made of noise."""

import json

import numpy as np

from u2seg.engine.config import load_config
from u2seg.files import write_arrays
from u2seg.pseudo.clusters import KMeans
from u2seg.pseudo.pipeline import learnt_on
from u2seg.pseudo.recipe import Recipe


def write_clusters(directory, options, count, without=()):
    """``clusters.npz`` as a run with ``options``, KEY VALUE pairs, leaves it; its clusterer."""
    cfg = load_config(options=options)
    recipe, rng = Recipe.from_config(cfg), np.random.default_rng(1)
    extractor = recipe.once(recipe.features, "cpu")
    crops = extractor.embed(list(rng.integers(0, 256, (count, 64, 64, 3), np.uint8)))
    clusterer = KMeans(n_clusters=count).fit(crops)
    state = {key: value for key, value in clusterer.state().items() if key not in without}
    note = {"settings": learnt_on("cluster", recipe, {"things": extractor.info}), "fingerprint": ""}
    write_arrays(directory / "clusters.npz", {**state, "learnt_on": np.array(json.dumps(note))})
    return clusterer
