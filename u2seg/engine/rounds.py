"""A round of self-training, photo by photo: a model is asked, and its confident answers join the earlier label.

Things follow CutLER (CVPR 2023), section 3.4. The rule for stuff, which CutLER has not, is ours:
``docs/research/training.md``.

Shapes: ``H, W`` pixels at which a photo is labelled; ``P`` predicted masks; ``N`` masks of the earlier labels; ``K``
thing and ``S`` stuff classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from u2seg.engine.earlier_labels import PhotoLabel
from u2seg.errors import DataError
from u2seg.images import Photo
from u2seg.pseudo.intermediate import MaskRecord, write_masks, write_stuff
from u2seg.pseudo.masks.regiontree import distinct, overlaps
from u2seg.pseudo.worker import Job, Outcome, read_photos
from u2seg.structures import STUFF_VOID, MaskSet
from u2seg.tool import quiet

if TYPE_CHECKING:
    from u2seg.engine.predictor import Predictor

Answer = tuple[MaskSet, np.ndarray, np.ndarray]
"""What a model says of one photo: things bool (P, H, W); their clusters int64 (P,) in [0, K); the stuff that it paints
uint8 (H, W) in [0, S), 255 where it paints none."""


@dataclass(frozen=True)
class Rule:
    """Which model is asked, and which of its answers are used; see ``U2SEG.SELF_TRAINING``."""

    config_file: str
    weights: str
    weights_sha256: str
    min_score: float
    max_iou: float


@dataclass(frozen=True, kw_only=True)
class RoundJob(Job):
    """Photos to ask the model about, and their labels so far."""

    labels: Mapping[int, PhotoLabel]  # By the photo's id
    rule: Rule


@lru_cache(maxsize=1)
def load_teacher(rule: Rule, device: str) -> Predictor:
    """The model of ``rule`` on ``device``, once in each process, and without torch's notes to its own developers."""
    quiet()
    from u2seg.engine.predictor import Predictor

    return Predictor.from_config(rule.config_file, rule.weights, confidence=rule.min_score, device=device)


def ask_teacher(teacher: Predictor, images: Sequence[np.ndarray]) -> list[Answer]:
    """What ``teacher`` says of ``images``, uint8 (H, W, 3) RGB of any sizes, as one batch."""
    answers = []
    for raw in teacher.predict(images):
        detections = raw["instances"]
        masks = detections.pred_masks.cpu().numpy().astype(bool)
        visible = masks.any(axis=(1, 2))
        scores = np.clip(detections.scores.float().cpu().numpy()[visible], 0, 1)
        clusters = detections.pred_classes.cpu().numpy().astype(np.int64)[visible]
        painted, segments = raw["panoptic_seg"]
        stuff_of = np.full(1 + max((segment["id"] for segment in segments), default=0), STUFF_VOID, np.uint8)
        for segment in segments:
            if not segment["isthing"]:
                stuff_of[segment["id"]] = segment["category_id"] - 1
        answers.append((MaskSet(masks[visible], scores), clusters, stuff_of[painted.cpu().numpy()]))
    return answers


def label_round(job: RoundJob) -> Outcome:
    """Ask the model about each photo and merge its answer with the label; write what the merge stage reads."""
    return job.work_through(partial(_label, job), job.recipe.executor.batch_size)


def _label(job: RoundJob, outcome: Outcome, photos: Sequence[Photo]) -> None:
    readable = read_photos(photos, outcome, job.recipe)
    with outcome.timed("predict"):
        answers = ask_teacher(load_teacher(job.rule, job.device), [pixels.image for _, pixels in readable])
    for (photo, pixels), answer in zip(readable, answers, strict=True):
        with outcome.timed("merge with the labels"):
            outcome.attempt([photo], partial(write_round, job, answer, pixels.size))


def write_round(job: RoundJob, answer: Answer, size: tuple[int, int], photos: Sequence[Photo]) -> None:
    """Merge ``answer`` with the label of the one photo, of ``size`` (height, width) pixels; write masks and stuff.

    Raises:
        DataError: the label is missing, damaged, or of another size than the photo.
    """
    rule, number = job.rule, photos[0].id
    label, key = job.labels[number], job.keys[number]
    height, width = label.photo.height, label.photo.width
    if (height, width) != size:
        raise DataError(f"the photo has {size[1]} x {size[0]} pixels (width x height), its label {width} x {height}")
    things, clusters, painted = answer
    earlier, earlier_clusters, stuff = label.read(*painted.shape)
    kept, stay = merge_things(things, earlier, min_score=rule.min_score, max_iou=rule.max_iou)
    masks = MaskSet(
        np.concatenate([things.masks[kept], earlier.masks[stay]]),
        np.concatenate([things.scores[kept], earlier.scores[stay]]),
    )
    extra = {
        "clusters": np.concatenate([clusters[kept], earlier_clusters[stay]]),
        "tally": np.array([len(kept), len(stay), len(earlier) - len(stay)]),
    }
    write_masks(job.masks.path(key), MaskRecord(masks, None, size, extra))
    write_stuff(job.stuff.path(key), np.where(painted == STUFF_VOID, stuff, painted))


def merge_things(
    predicted: MaskSet, earlier: MaskSet, *, min_score: float, max_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the things of the next round.

    A prediction is kept if its score is above ``min_score`` and its IoU with no better one that is kept is above
    ``max_iou`` (a detector suppresses doubles within a class; here one thing may be seen as two classes). An earlier
    mask stays if its IoU with no prediction that is kept is above ``max_iou``.

    Args:
        predicted: masks bool (P, H, W).
        earlier: masks bool (N, H, W).
        min_score: in [0, 1].
        max_iou: in [0, 1].

    Returns:
        Indices int64 of the predictions that are kept, best first, and of the earlier masks that stay, in order.
    """
    scores = np.where(predicted.scores > min_score, predicted.scores, 0)
    kept = distinct(predicted.masks, scores, max_iou, len(predicted))
    replaced = (overlaps(predicted.masks[kept], earlier.masks) > max_iou).any(axis=0)
    return kept, np.flatnonzero(~replaced)
