"""Executable contracts: call one from a plugin's tests, as one calls scikit-learn's ``check_estimator``.

Each check builds small inputs, calls the part, and raises AssertionError with the rule that was broken. A run checks
the rules of `u2seg.plugins.rules` too; determinism, batches and states are checked here alone.

Shapes: as in `u2seg.plugins.contracts`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from u2seg.errors import PluginError, U2SegError
from u2seg.plugins.contracts import Clusterer, FeatureExtractor, MaskGenerator, Refiner, StuffSegmenter
from u2seg.plugins.guard import CAUGHT, describe
from u2seg.plugins.offers import Offer
from u2seg.plugins.rules import call_checked, check_members, refine_many_checked, require

Arrays = list[np.ndarray]
"""What a part gave: to be compared with what another of its kind gives."""
SIZE = (48, 64)
"""Height and width, in pixels, of the images that most parts are checked on."""


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


def check_feature_extractor(extractor: FeatureExtractor) -> Arrays:
    """Raise AssertionError unless ``extractor`` keeps the `FeatureExtractor` contract on images of 96 x 128 pixels."""
    check_members("feature extractor", extractor)
    if hasattr(extractor, "prepare"):
        call_checked(extractor, "prepare")
    images = [sample_image(96, 128), sample_image(128, 96, seed=1)]
    together = call_checked(extractor, "extract", images)
    require(extractor.stride > 0, "stride is the pixels of the network's input per cell of the grid")
    _same(together, call_checked(extractor, "extract", images), "the same images, the same features")
    alone = [call_checked(extractor, "extract", [image])[0] for image in images]
    _close(together, alone, "an image has the same features alone as with others")
    results = [*together]
    if hasattr(extractor, "embed"):
        vectors = call_checked(extractor, "embed", images)
        singly = [call_checked(extractor, "embed", [image])[0] for image in images]
        _close(list(vectors), singly, "an image has the same embedding alone as with others")
        results.append(vectors)
    if hasattr(extractor, "shares_pass") and call_checked(extractor, "shares_pass", extractor):
        shared = call_checked(extractor, "extract_with", images, [extractor])
        _close(shared[0] + shared[1], together + together, "extract_with gives what extract gives")
    return results


def check_mask_generator(generator: MaskGenerator, dim: int = 16, extractor: FeatureExtractor | None = None) -> Arrays:
    """Raise AssertionError unless ``generator`` keeps the `MaskGenerator` contract on images of `SIZE`.

    Its features are those of ``extractor``, or made up, with ``dim`` channels.
    """
    check_members("mask generator", generator)
    images, grids = _samples(dim, extractor, 2)
    single = [call_checked(generator, "generate", *pair) for pair in zip(images, grids, strict=True)]
    again = call_checked(generator, "generate", images[0], grids[0])
    _same([again.masks, again.scores], [single[0].masks, single[0].scores], "the same image, the same masks and scores")
    call_checked(generator, "generate", images[0], np.ones_like(grids[0]))  # constant features
    if hasattr(generator, "generate_batch"):
        batch = call_checked(generator, "generate_batch", images, grids)
        _same([b.masks for b in batch], [s.masks for s in single], "generate_batch gives what generate gives")
    return [array for masks in single for array in (masks.masks, masks.scores)]


def check_clusterer(clusterer: Clusterer) -> Arrays:
    """Raise AssertionError unless ``clusterer`` keeps the `Clusterer` contract on a few blobs."""
    check_members("clusterer", clusterer)
    rng = np.random.default_rng(0)
    count = clusterer.n_clusters
    centres = rng.normal(size=(count, 8)) * 5
    X = (np.repeat(centres, 6, axis=0) + 0.1 * rng.normal(size=(6 * count, 8))).astype(np.float32)
    call_checked(clusterer, "fit", X)
    labels = call_checked(clusterer, "predict", X)
    if hasattr(clusterer, "cluster_centers_"):
        centers = clusterer.cluster_centers_
        require(centers.dtype == np.float32 and len(centers) == count, "cluster_centers_ is float32 (K, D)")
        require(set(labels.tolist()) == set(range(count)), "ids cover [0, K): no cluster with a centre is empty")
    _same([labels], [clusterer.fit(X).predict(X)], "the same vectors, the same ids")
    call_checked(clusterer, "load_state", call_checked(clusterer, "state"))
    _same([labels], [clusterer.predict(X)], "a loaded state predicts as before")
    return [labels]


def check_stuff_segmenter(
    segmenter: StuffSegmenter, dim: int = 16, extractor: FeatureExtractor | None = None
) -> Arrays:
    """Raise AssertionError unless ``segmenter`` keeps the `StuffSegmenter` contract on images of `SIZE`.

    Its features are those of ``extractor``, or made up, with ``dim`` channels.
    """
    check_members("stuff segmenter", segmenter)
    images, grids = _samples(dim, extractor, 4)
    call_checked(segmenter, "fit", iter(grids))
    stuff = call_checked(segmenter, "segment", images[0], grids[0])
    _same([stuff], [segmenter.segment(images[0], grids[0])], "the same image, the same stuff")
    call_checked(segmenter, "load_state", call_checked(segmenter, "state"))
    _same([stuff], [segmenter.segment(images[0], grids[0])], "a loaded state segments as before")
    return [stuff]


def check_refiner(refiner: Refiner, size: tuple[int, int] = SIZE) -> Arrays:
    """Raise AssertionError unless ``refiner`` keeps the `Refiner` contract on an image of ``size`` pixels."""
    check_members("refiner", refiner)
    image = sample_image(*size)
    mask = _disc(size[0] // 4, size[1] // 4).astype(np.float32)
    many = [np.stack([1 - mask, mask]), np.stack([1 - mask, mask / 2, mask / 2])]
    single = [call_checked(refiner, "refine", image, scores) for scores in many]
    _same(single, [refiner.refine(image, scores) for scores in many], "the same image, the same scores")
    if hasattr(refiner, "refine_many"):
        _close(list(refine_many_checked(refiner, image, many)), single, "refine_many gives what refine gives")
    inside, truth = single[0].argmax(axis=0).astype(bool), _disc(*size)
    overlap = (inside & truth).sum() / max((inside | truth).sum(), 1)
    require(bool(overlap > 0.6), f"a clear disc stays where it is (IoU {overlap:.2f})")
    return single


def check_picklable(part: object) -> None:
    """Raise AssertionError unless ``part`` can travel to a worker process."""
    require(pickle.loads(pickle.dumps(part)) is not None, "the part can be pickled")


CHECKS: dict[str, Callable[..., Arrays]] = {
    "feature extractor": check_feature_extractor,
    "mask generator": check_mask_generator,
    "refiner": check_refiner,
    "clusterer": check_clusterer,
    "stuff segmenter": check_stuff_segmenter,
}
"""Kind of part to its check."""


def check_offer(
    offer: Offer, args: Mapping[str, Any], context: Mapping[str, Any], extractor: FeatureExtractor | None = None
) -> None:
    """Check what ``offer`` makes of ``args`` and ``context``, twice, and that both give the same.

    Parts that need features are given those of ``extractor``; made up ones if None.

    Raises:
        UsageError: the factory refuses an argument.
        PluginError: the part does not keep its contract, or fails.
    """
    more = {"extractor": extractor} if offer.kind in ("mask generator", "stuff segmenter") else {}
    parts = [offer.build(args, context) for _ in range(2)]
    try:
        first, second = (CHECKS[offer.kind](part, **more) for part in parts)
        _same(first, second, "made again with the same arguments and seed, it gives the same")
    except (U2SegError, MemoryError):
        raise
    except AssertionError as error:
        raise PluginError(f"{offer.title} breaks its contract: {error}") from error
    except CAUGHT as error:
        raise PluginError(f"{offer.title}: {describe(error, offer.packages)}") from error


def _samples(dim: int, extractor: FeatureExtractor | None, count: int) -> tuple[Arrays, Arrays]:
    """``count`` images of `SIZE` and their features."""
    images = [sample_image(*SIZE, seed=seed) for seed in range(count)]
    if extractor is not None:
        return images, extractor.extract(images)
    return images, [sample_features(dim, SIZE[0] // 4, SIZE[1] // 4, seed=seed) for seed in range(count)]


def _same(result: Sequence[np.ndarray], expected: Sequence[np.ndarray], rule: str) -> None:
    """Raise the error of ``rule`` unless both are equal, bit by bit."""
    pairs = list(zip(result, expected, strict=False))
    require(len(result) == len(expected) and all(np.array_equal(a, b) for a, b in pairs), rule)


def _close(result: Sequence[np.ndarray], expected: Sequence[np.ndarray], rule: str) -> None:
    """As `_same`, but for rounding, of a hundredth of the largest value."""
    for a, b in zip(result, expected, strict=True):
        require(
            a.shape == b.shape and float(np.abs(a - b).max(initial=0)) <= 0.01 * float(np.abs(b).max(initial=0)), rule
        )
