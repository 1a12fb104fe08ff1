"""Checks of the settings before work begins, and what of them each stage depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from u2seg.errors import UsageError, lookup
from u2seg.images import PhotoSet
from u2seg.pseudo import parts
from u2seg.runtime import worker_device
from u2seg.structures import MAX_STUFF, LabelSpace

EMBEDDINGS = ("mean", "crop", "both")
ORDERS = ("area", "score")


def check_settings(settings: parts.Settings) -> list[dict[str, Any]]:
    """Build every part once and fetch its weights, so that a mistake shows before hours of work.

    Args:
        settings: the ``U2SEG`` tree.

    Returns:
        What the feature extractors say of their weights: ``uri``, ``sha256``, ``caveat`` and so on, things' first.

    Raises:
        UsageError: a value is out of range, or a part refuses its arguments.
        PluginError: a part that is asked for may be in a broken plugin.
    """
    check_ranges(settings)
    device = worker_device(settings["DEVICE"])
    parts.build_mask_generator(settings, device)
    parts.build_clusterer(settings)
    segmenter = parts.build_stuff_segmenter(settings, "cpu")
    parts.build_refiner(settings)
    parts.build_refiner(settings, stuff=True)
    weights = []
    for stuff in (False, True):
        extractor = parts.build_extractor(settings, device, stuff)
        prepare = getattr(extractor, "prepare", None)
        weights.append(dict(prepare()) if prepare else {"name": parts.feature_settings(settings, stuff)["NAME"]})
    if hasattr(segmenter, "info"):
        weights[1]["segmenter"] = dict(segmenter.info)
    return weights


def check_ranges(settings: parts.Settings) -> None:
    """Raise UsageError for a number out of range."""
    merge, executor = settings["MERGE"], settings["EXECUTOR"]
    rules = [
        ("NUM_THINGS", settings["NUM_THINGS"], 1, None),
        ("NUM_STUFF", settings["NUM_STUFF"], 1, MAX_STUFF),
        ("INPUT.MAX_PIXELS", settings["INPUT"]["MAX_PIXELS"], 1024, None),
        ("MASKS.MIN_REFINED_IOU", settings["MASKS"]["MIN_REFINED_IOU"], 0, 1),
        ("CLUSTERS.CROP_SIZE", settings["CLUSTERS"]["CROP_SIZE"], 16, None),
        ("STUFF.FIT_IMAGES", settings["STUFF"]["FIT_IMAGES"], 1, None),
        ("MERGE.MAX_STUFF_OVERLAP", merge["MAX_STUFF_OVERLAP"], 0, 1),
        ("MERGE.MIN_AREA", merge["MIN_AREA"], 0, 1),
        ("MERGE.MIN_VISIBLE", merge["MIN_VISIBLE"], 0, 1),
        ("EXECUTOR.WORKERS", executor["WORKERS"], 0, None),
        ("EXECUTOR.THREADS", executor["THREADS"], 1, None),
        ("EXECUTOR.BATCH_SIZE", executor["BATCH_SIZE"], 1, None),
        ("EXECUTOR.SHARD_SIZE", executor["SHARD_SIZE"], 1, None),
    ]
    for key, value, low, high in rules:
        if value < low or (high is not None and value > high):
            bound = f"from {low} to {high}" if high is not None else f"{low} or more"
            raise UsageError(f"U2SEG.{key} must be {bound}, not {value}")
    for key, given, allowed in (
        ("CLUSTERS.EMBEDDING", settings["CLUSTERS"]["EMBEDDING"], EMBEDDINGS),
        ("MERGE.ORDER", merge["ORDER"], ORDERS),
    ):
        lookup(f"U2SEG.{key}", given, dict.fromkeys(allowed))
    LabelSpace(settings["NUM_THINGS"], settings["NUM_STUFF"])


def photo_fingerprint(photos: PhotoSet) -> dict[str, Any]:
    """How many photos there are, and a hash of their names, ids and file sizes."""
    digest = hashlib.sha256()
    for photo in photos.photos:
        try:
            size = os.path.getsize(photo.path)
        except OSError:
            size = -1
        digest.update(json.dumps([photo.id, photo.name, size]).encode())
    return {"count": len(photos), "sha256_of_names_and_sizes": digest.hexdigest()}


def stage_settings(
    settings: parts.Settings, photos: Mapping[str, Any], weights: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each stage, all that its files depend on."""
    executor = {key: settings["EXECUTOR"][key] for key in ("THREADS", "BATCH_SIZE")}
    sources = parts.distributions(settings)
    clusters, stuff = settings["CLUSTERS"], settings["STUFF"]
    embedding = {key: clusters[key] for key in ("EMBEDDING", "CROP_SIZE")}
    earlier = clusters["REUSE"]
    common = {"photos": dict(photos), "U2SEG.INPUT": settings["INPUT"], "U2SEG.EXECUTOR": executor}
    return {
        "masks": {
            **common,
            "U2SEG.FEATURES": _part(settings["FEATURES"], "feature extractor", sources),
            "weights": weights[0],
            "U2SEG.MASKS": {
                **_part(settings["MASKS"], "mask generator", sources),
                "MIN_REFINED_IOU": settings["MASKS"]["MIN_REFINED_IOU"],
            },
            "U2SEG.REFINE": _part(settings["REFINE"], "refiner", sources),
            "U2SEG.CLUSTERS": embedding,
        },
        "cluster": {
            "U2SEG.CLUSTERS": {
                **_part(clusters, "clusterer", sources),
                **_reused(earlier, "clusters.npz"),
                "MIN_SCORE": clusters["MIN_SCORE"],
            },
            "U2SEG.NUM_THINGS": settings["NUM_THINGS"],
            "U2SEG.SEED": settings["SEED"],
        },
        "stuff": {
            **common,
            "U2SEG.STUFF": {**_part(stuff, "stuff segmenter", sources), "FIT_IMAGES": stuff["FIT_IMAGES"]},
            "features": _part(parts.feature_settings(settings, True), "feature extractor of stuff", sources),
            "refiner": _part(parts.refiner_settings(settings, True), "refiner of stuff", sources),
            "weights": weights[1],
            "U2SEG.NUM_STUFF": settings["NUM_STUFF"],
            "U2SEG.SEED": settings["SEED"],
            "U2SEG.CLUSTERS": _reused(earlier, "stuff.npz"),
        },
        "merge": {"U2SEG.MERGE": settings["MERGE"]},
    }


def _part(node: parts.Settings, role: str, sources: Mapping[str, str]) -> dict[str, Any]:
    """A part as ``{NAME, ARGS, from}`` with the arguments of that name alone."""
    return {"NAME": node["NAME"], "ARGS": {node["NAME"]: parts.own_args(node)}, "from": sources[role]}


def _reused(directory: str, name: str) -> dict[str, str]:
    """What of an earlier run a stage takes over, with the sha256 of that file."""
    if not directory:
        return {"REUSE": ""}
    try:
        with open(os.path.join(directory, name), "rb") as file:
            return {"REUSE": directory, "sha256": hashlib.sha256(file.read()).hexdigest()}
    except OSError as error:
        raise UsageError(
            f"U2SEG.CLUSTERS.REUSE {directory!r} must be the --output of an earlier run: {name}: {error.strerror}"
        ) from error
