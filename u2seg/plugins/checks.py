"""Executable contracts: call one from a plugin's tests, as one calls scikit-learn's ``check_estimator``.

Each check builds small inputs, calls the part, and raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

import pickle

import numpy as np

from u2seg.plugins.api import Clusterer, FeatureExtractor, MaskGenerator, Refiner, StuffSegmenter
from u2seg.structures import STUFF_VOID, MaskSet


def _require(truth: bool, rule: str) -> None:
    if not truth:
        raise AssertionError(rule)


def sample_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image uint8 (height, width, 3) of a bright disc on a darker noisy ground."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 60, (height, width, 3))
    image[_disc(height, width)] += np.array([150, 120, 30])
    return image.astype(np.uint8)


def sample_features(dim: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Features float32 (dim, height, width) that tell the disc of `sample_image` from its ground."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, dim))
    features = directions[_disc(height, width).astype(int)] + 0.1 * rng.normal(size=(height, width, dim))
    return np.ascontiguousarray(features.transpose(2, 0, 1), np.float32)


def _disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y / height - 0.5) ** 2 + (x / width - 0.45) ** 2) < 0.06


def check_feature_extractor(extractor: FeatureExtractor, size: tuple[int, int] = (96, 128)) -> None:
    """Raise AssertionError unless ``extractor`` keeps the `FeatureExtractor` contract on images of ``size``."""
    images = [sample_image(*size), sample_image(size[1], size[0], seed=1)]
    copies = [image.copy() for image in images]
    found = extractor.extract(images)
    _require(len(found) == len(images), "extract returns one array for each image")
    for array in found:
        _require(array.dtype == np.float32 and array.ndim == 3, "features are float32 (D, h, w)")
        _require(array.shape[0] == extractor.dim, f"features have dim={extractor.dim} channels, not {array.shape[0]}")
        _require(bool(np.isfinite(array).all()), "features are finite")
    _require(extractor.stride > 0, "stride is the pixels of the network's input per cell of the grid")
    _require(all(np.array_equal(a, b) for a, b in zip(images, copies, strict=True)), "images are left as they were")
    again = extractor.extract(images)
    _require(all(np.array_equal(a, b) for a, b in zip(found, again, strict=True)), "the same images, the same features")


def check_mask_generator(generator: MaskGenerator, size: tuple[int, int] = (48, 64), dim: int = 16) -> None:
    """Raise AssertionError unless ``generator`` keeps the `MaskGenerator` contract on an image of ``size`` pixels."""
    image, features = sample_image(*size), sample_features(dim, size[0] // 4, size[1] // 4)
    image_copy, features_copy = image.copy(), features.copy()
    found = generator.generate(image, features)
    _require(isinstance(found, MaskSet), "generate returns a MaskSet")
    same = np.array_equal(image, image_copy) and np.array_equal(features, features_copy)
    _require(same, "image and features are left as they were")
    again = generator.generate(image, features)
    _require(np.array_equal(found.masks, again.masks), "the same image, the same masks")
    _require(np.array_equal(found.scores, again.scores), "the same image, the same scores")
    flat = np.ones_like(features)
    _require(
        isinstance(generator.generate(image, flat), MaskSet), "constant features give a MaskSet, maybe an empty one"
    )
    if hasattr(generator, "generate_batch"):
        batch = generator.generate_batch([image, image], [features, features])
        _require(
            len(batch) == 2 and all(np.array_equal(b.masks, found.masks) for b in batch),
            "generate_batch gives what generate gives",
        )


def check_clusterer(clusterer: Clusterer, dim: int = 8) -> None:
    """Raise AssertionError unless ``clusterer`` keeps the `Clusterer` contract on a few blobs."""
    rng = np.random.default_rng(0)
    count = clusterer.n_clusters
    centres = rng.normal(size=(count, dim)) * 5
    X = (np.repeat(centres, 6, axis=0) + 0.1 * rng.normal(size=(6 * count, dim))).astype(np.float32)
    copy = X.copy()
    _require(clusterer.fit(X) is clusterer, "fit returns the clusterer itself")
    labels = clusterer.predict(X)
    _require(labels.dtype == np.int64 and labels.shape == (len(X),), "predict returns int64 (M,)")
    _require(set(labels.tolist()) == set(range(count)), "ids cover [0, K): no cluster is empty")
    _require(np.array_equal(X, copy), "X is left as it was")
    centers = clusterer.cluster_centers_
    _require(centers.dtype == np.float32 and len(centers) == count, "cluster_centers_ is float32 (K, D)")
    _require(np.array_equal(clusterer.fit(X).predict(X), labels), "the same vectors, the same ids")
    _require(clusterer.load_state(clusterer.state()) is clusterer, "load_state returns the clusterer itself")
    _require(np.array_equal(clusterer.predict(X), labels), "a loaded state predicts as before")


def check_stuff_segmenter(segmenter: StuffSegmenter, size: tuple[int, int] = (48, 64), dim: int = 16) -> None:
    """Raise AssertionError unless ``segmenter`` keeps the `StuffSegmenter` contract on an image of ``size`` pixels."""
    image = sample_image(*size)
    sample = [sample_features(dim, size[0] // 4, size[1] // 4, seed=s) for s in range(4)]
    _require(segmenter.fit(iter(sample)) is segmenter, "fit returns the segmenter itself")
    found = segmenter.segment(image, sample[0])
    if found.dtype == np.uint8:
        fits = (found == STUFF_VOID) | (found < segmenter.num_classes)
        _require(found.shape == image.shape[:2] and bool(fits.all()), "labels are uint8 (H, W) in [0, S) or 255")
    else:
        _require(found.dtype == np.float32, "segment returns uint8 labels or float32 probabilities")
        _require(found.ndim == 3 and len(found) == segmenter.num_classes, "probabilities are (S, h, w)")
        _require(bool(((found >= 0) & (found <= 1)).all()), "probabilities lie in [0, 1]")
    _require(np.array_equal(segmenter.segment(image, sample[0]), found), "the same image, the same stuff")
    state = segmenter.state()
    _require(all(isinstance(v, np.ndarray) for v in state.values()), "state is a dict of arrays")
    _require(segmenter.load_state(state) is segmenter, "load_state returns the segmenter itself")
    _require(np.array_equal(segmenter.segment(image, sample[0]), found), "a loaded state segments as before")


def check_refiner(refiner: Refiner, size: tuple[int, int] = (48, 64)) -> None:
    """Raise AssertionError unless ``refiner`` keeps the `Refiner` contract on an image of ``size`` pixels."""
    image = sample_image(*size)
    mask = _disc(size[0] // 4, size[1] // 4).astype(np.float32)
    for scores in (np.stack([1 - mask, mask]), np.stack([1 - mask, mask / 2, mask / 2])):
        image_copy, scores_copy = image.copy(), scores.copy()
        found = refiner.refine(image, scores)
        _require(found.dtype == np.float32, "refined scores are float32")
        _require(found.shape == (len(scores), *size), "refined scores are (C, H, W)")
        _require(bool(np.isfinite(found).all()), "refined scores are finite")
        same = np.array_equal(image, image_copy) and np.array_equal(scores, scores_copy)
        _require(same, "image and scores are left as they were")
        _require(np.array_equal(refiner.refine(image, scores), found), "the same image, the same scores")
    inside = refiner.refine(image, np.stack([1 - mask, mask])).argmax(axis=0).astype(bool)
    truth = _disc(*size)
    overlap = (inside & truth).sum() / max((inside | truth).sum(), 1)
    _require(bool(overlap > 0.6), f"a clear disc stays where it is (IoU {overlap:.2f})")


def check_picklable(part: object) -> None:
    """Raise AssertionError unless ``part`` can travel to a worker process."""
    _require(pickle.loads(pickle.dumps(part)) is not None, "the part can be pickled")
