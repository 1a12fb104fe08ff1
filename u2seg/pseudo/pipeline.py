"""From photos to a pseudo-panoptic dataset by the recipe of U2Seg (CVPR 2024, section 3).

Stages: ``fit`` (the stuff segmenter, on a sample), ``label`` (masks, their vectors and stuff of each photo, in one pass
of the network), ``cluster`` (pseudo-classes over the set), ``merge`` (the panoptic labels). What is on disk and current
is kept; a run that was stopped resumes.

Shapes: ``D, h, w`` features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from u2seg.errors import UsageError
from u2seg.images import PhotoSet
from u2seg.pseudo.embeddings import embeds_all
from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS, LabelGenerator
from u2seg.pseudo.intermediate import read_arrays
from u2seg.pseudo.labelling import keep_features, label_photos
from u2seg.pseudo.learning import MEAN_CENTRES, mean_centres, sample_masks
from u2seg.pseudo.ledger import FITTED_FILES
from u2seg.pseudo.parts import Part
from u2seg.pseudo.products import reuse_fitted
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.run import LabelRun
from u2seg.runtime import bounded_threads, worker_device


@PSEUDO_LABEL_GENERATORS.register()
class U2SegGenerator(LabelGenerator):
    """The recipe of U2Seg: masks, clusters, stuff, merge; every part by its name in the config."""

    def __init__(self, cfg: CfgNode, photos: PhotoSet, output: str | Path) -> None:
        """As `LabelGenerator`; also raises PluginError, where a part that is asked for may be in a broken plugin."""
        super().__init__(cfg, photos, output)
        self.weights = self.recipe.check(worker_device(self.recipe.device))
        self.caveats = sorted({str(entry["caveat"]) for entry in self.weights.values() if entry.get("caveat")})
        if self.recipe.reuse:
            self._reuse("cluster")
            self._reuse("fit")

    def _dependencies(self) -> dict[str, dict[str, Any]]:
        return dependencies(self.recipe, self.weights)

    def _fit(self, run: LabelRun) -> bool:
        """Fit the stuff segmenter on a sample of the photos; whether that had to be done."""
        if run.is_fitted("fit"):
            return False
        if self.recipe.reuse:
            state = self._reuse("fit")
        else:
            segmenter = self.recipe.build(self.recipe.stuff, "cpu")
            with bounded_threads(self.recipe.executor.threads):
                state = segmenter.fit(self._sampled_features(run)).state()
        run.keep_fitted("fit", state, learnt_on("fit", self.recipe, self.weights))
        return True

    def _sampled_features(self, run: LabelRun) -> Iterator[np.ndarray]:
        """Features float32 (D, h, w) of the sample, in order; the network runs when they are first asked for."""
        photos = run.inventory.photos
        order = np.random.default_rng(self.recipe.seed).permutation(len(photos))
        sample = [photos[index] for index in sorted(order[: self.recipe.fit_images])]
        run.each(keep_features, sample)
        run.refuse_if_all_failed(len(sample))
        features = run.features()
        for photo in sample:
            key = run.inventory.keys[photo.id]
            if features.has(key):
                yield read_arrays(features, key, "stuff")["stuff"]

    def _label(self, run: LabelRun) -> bool:
        return run.label(label_photos)

    def _cluster(self, run: LabelRun) -> bool:
        """Learn the clusters of all masks; whether that had to be done."""
        if run.is_fitted("cluster"):
            return False
        recipe, count = self.recipe, self.recipe.space.num_things
        clusterer = recipe.build(recipe.clusterer, worker_device(recipe.device))
        with bounded_threads(recipe.executor.threads):
            if recipe.reuse:
                state = self._reuse("cluster")
                clusterer.load_state({name: array for name, array in state.items() if name != MEAN_CENTRES})
            else:
                keys = list(run.labelled())
                sample = sample_masks(run.index("masks"), keys, count, recipe.cluster_min_score, recipe.seed)
                ids = clusterer.fit(sample.vectors).predict(sample.vectors)
                state = {**clusterer.state(), MEAN_CENTRES: mean_centres(sample.means, ids, count)}
        run.keep_fitted("cluster", state, learnt_on("cluster", recipe, self.weights))
        return True

    def _reuse(self, product: str) -> dict[str, np.ndarray]:
        """What an earlier run has learnt, if it was learnt on the features of this one."""
        recipe = self.recipe
        state = reuse_fitted(recipe.reuse, FITTED_FILES[product], learnt_on(product, recipe, self.weights))
        chosen = recipe.embedding, recipe.cluster_min_score, recipe.cluster_max_overlap
        if product == "cluster" and not state[MEAN_CENTRES].size and not embeds_all(*chosen):
            raise UsageError(
                f"U2SEG.CLUSTERS.REUSE {recipe.reuse!r} was made with a vector for every mask, so its clusters can't "
                "name masks without one: set U2SEG.CLUSTERS.MIN_SCORE 0 and U2SEG.CLUSTERS.MAX_OVERLAP 1 here too"
            )
        return state

    def _record(self, run: LabelRun) -> Mapping[str, Any]:
        return {**super()._record(run), "parts": self.recipe.distributions(), "weights": self.weights}


def dependencies(recipe: Recipe, weights: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each product of a run, the settings that it depends on beside those of the products it is made from.

    ``weights`` are what `Recipe.check` gave.
    """
    common = {
        "U2SEG.INPUT.MAX_PIXELS": recipe.max_pixels,
        "U2SEG.EXECUTOR.THREADS": recipe.executor.threads,
        "U2SEG.EXECUTOR.BATCH_SIZE": recipe.executor.batch_size,
    }
    stuff_features = {
        **_seed_of(recipe, recipe.stuff_features),
        "features of stuff": recipe.stuff_features.settings(),
        "weights of stuff": dict(weights["stuff"]),
    }
    fit = {
        "U2SEG.STUFF": recipe.stuff.settings(),
        "U2SEG.STUFF.FIT_IMAGES": recipe.fit_images,
        "U2SEG.NUM_STUFF": recipe.space.num_stuff,
        "U2SEG.SEED": recipe.seed,
        "U2SEG.CLUSTERS.REUSE": recipe.reuse,
    }
    cluster = {
        "U2SEG.CLUSTERS": recipe.clusterer.settings(),
        "U2SEG.CLUSTERS.REUSE": recipe.reuse,
        "U2SEG.NUM_THINGS": recipe.space.num_things,
        "U2SEG.SEED": recipe.seed,
    }
    refined = {**_seed_of(recipe, recipe.stuff_refine), "refiner of stuff": recipe.stuff_refine.settings()}
    return {
        "fit": {**common, **stuff_features, **fit},
        "masks": {**common, **_of_masks(recipe), "weights": dict(weights["things"])},
        "stuff": {**common, **stuff_features, **refined},
        "cluster": cluster,
        "merge": recipe.merge.settings(),
    }


def _of_masks(recipe: Recipe) -> dict[str, Any]:
    """What masks and their vectors depend on, beside the weights of the network."""
    return {
        **_seed_of(recipe, recipe.features, recipe.masks, recipe.refine),
        "U2SEG.FEATURES": recipe.features.settings(),
        "U2SEG.MASKS": recipe.masks.settings(),
        "U2SEG.MASKS.MIN_REFINED_IOU": recipe.min_refined_iou,
        "U2SEG.MASKS.KEEP_ROUGH": recipe.keep_rough,
        "U2SEG.MASKS.SOFT_EDGES": recipe.soft_edges,
        "U2SEG.MASKS.CROPS": recipe.crops,
        "U2SEG.REFINE": recipe.refine.settings(),
        "U2SEG.CLUSTERS.EMBEDDING": recipe.embedding,
        "U2SEG.CLUSTERS.CROP_SIZE": recipe.crop_size,
        "U2SEG.CLUSTERS.MIN_SCORE": recipe.cluster_min_score,
        "U2SEG.CLUSTERS.MAX_OVERLAP": recipe.cluster_max_overlap,
    }


def _seed_of(recipe: Recipe, *parts: Part) -> dict[str, int]:
    """The seed, where one of ``parts`` depends on it."""
    return {"U2SEG.SEED": recipe.seed} if any(part.takes("random_state") for part in parts) else {}


def learnt_on(product: str, recipe: Recipe, weights: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of the features that ``product``, "fit" or "cluster", is learnt on: with others, it means nothing here.

    Features are told apart by what the extractor says of its weights, wherever their file lies, else by its settings.
    Those of another precision are the same to 0.9999, so what was learnt on them may be used.
    """
    role, part = ("stuff", recipe.stuff_features) if product == "fit" else ("things", recipe.features)
    aside = ("weights", "caveat", "segmenter", "precision")
    told = {key: value for key, value in weights[role].items() if key not in aside}
    features = told if "weights_sha256" in weights[role] else part.settings()
    if product == "fit":
        return {"features of stuff": features}
    vectors = {"U2SEG.CLUSTERS.EMBEDDING": recipe.embedding, "U2SEG.CLUSTERS.CROP_SIZE": recipe.crop_size}
    return {"U2SEG.FEATURES": features, **vectors}
