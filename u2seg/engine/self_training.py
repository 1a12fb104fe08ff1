"""A label generator that asks a trained model: one round of self-training (CutLER, CVPR 2023, section 3.4).

The model's confident things and stuff are merged into the labels that it was trained on, and go through the same
files, the same merge stage and the same writer as the labels of the factory. Nothing of Detectron2 is imported before
a model is asked for, so that the name can be listed anywhere.

Shapes: ``h, w`` pixels at which a photo is labelled; ``N`` things.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fvcore.common.config import CfgNode

from u2seg.config import get_pseudo_cfg, plain
from u2seg.engine.earlier_labels import PhotoLabel, read_earlier_labels
from u2seg.engine.rounds import merge_stuff, merge_things
from u2seg.errors import DataError, UsageError
from u2seg.files import file_sha256, write_png
from u2seg.images import Photo, PhotoSet, batches, find_photos
from u2seg.pseudo.intermediate import MaskRecord, read_arrays, write_masks
from u2seg.pseudo.ledger import STAGES
from u2seg.pseudo.pipeline import PSEUDO_LABEL_GENERATORS
from u2seg.pseudo.recipe import Recipe
from u2seg.pseudo.record import Summary
from u2seg.pseudo.run import LabelRun
from u2seg.pseudo.worker import Job, Outcome, read_photos
from u2seg.runtime import bounded_threads
from u2seg.structures import MaskSet

if TYPE_CHECKING:
    from u2seg.engine.teacher import Answer, Teacher

logger = logging.getLogger(__name__)

KEY = "U2SEG.SELF_TRAINING"
GROUPS = ("GENERATOR", "SEED", "NUM_THINGS", "NUM_STUFF", "INPUT", "DEVICE", "SELF_TRAINING", "MERGE", "EXECUTOR")
"""Keys of ``U2SEG`` that mean something here."""
COUNTS = ("predicted", "kept", "replaced")


@dataclass(frozen=True)
class Rule:
    """Which model is asked, and which of its answers are used."""

    config_file: str
    weights: str
    weights_sha256: str
    min_score: float
    max_iou: float
    stuff_score: float


@dataclass(frozen=True, kw_only=True)
class RoundJob(Job):
    """Photos to ask the model about, and their labels so far."""

    labels: Mapping[int, PhotoLabel]
    """By the photo's id."""
    rule: Rule


@PSEUDO_LABEL_GENERATORS.register()
class SelfTrainingGenerator:
    """A model trained on earlier labels (U2SEG.SELF_TRAINING.{LABELS,MODEL}); its confident predictions join them."""

    def __init__(self, cfg: CfgNode, photos: PhotoSet, output: str | Path, executor: Executor | None = None) -> None:
        """Check settings, labels and model; the arguments are those of `u2seg.pseudo.pipeline.U2SegGenerator`.

        Raises:
            U2SegError: one of them can't be used, or they contradict each other.
        """
        if importlib.util.find_spec("detectron2") is None:
            raise UsageError("SelfTrainingGenerator needs Detectron2, which is not installed; see README.md")
        self.output, self.executor = Path(output), executor
        self.earlier = read_earlier_labels(cfg.U2SEG.SELF_TRAINING.LABELS)
        if self.output.expanduser().resolve() == self.earlier.dataset.root.resolve():
            raise UsageError(f"--output is {KEY}.LABELS itself; a round makes new labels beside the old ones")
        self.config = self._with_counts(plain(cfg.U2SEG))
        self.recipe = replace(Recipe.from_config(cfg), space=self.earlier.space)
        self.photos = self.earlier.choose(photos)
        self.round = self.earlier.round + 1
        self.rule = self._rule()
        teacher = load_teacher(self.rule, "cpu")
        self._check_space(teacher)
        self.weights = {"uri": self.rule.weights, "weights_sha256": self.rule.weights_sha256, **teacher.info()}
        logger.info(
            "round %d of self-training: things with a score above %.2f are used", self.round, self.rule.min_score
        )

    @classmethod
    def find_photos(cls, cfg: CfgNode, images: str | None, root: str | None) -> PhotoSet:
        """The photos that ``images`` names out of those of the labels; all of them where it names none."""
        earlier = read_earlier_labels(cfg.U2SEG.SELF_TRAINING.LABELS)
        return earlier.choose(find_photos(images, root)) if images else earlier.photo_set(root)

    def _with_counts(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``settings`` with K and S of the labels, unless others were asked for."""
        defaults, space = get_pseudo_cfg().U2SEG, self.earlier.space
        for key, count in (("NUM_THINGS", space.num_things), ("NUM_STUFF", space.num_stuff)):
            if settings[key] not in (defaults[key], count):
                raise UsageError(
                    f"U2SEG.{key} is {settings[key]}, but {self.earlier.dataset.root} has {count}; leave the key out"
                )
            settings[key] = count
        return settings

    def _rule(self) -> Rule:
        """CutLER prints the threshold 0.75 - 0.5 t, below zero from round 2 on; the default SCORE_STEP is 0.05."""
        from u2seg.engine.teacher import find_model
        from u2seg.engine.weights import local_file

        node = self.config["SELF_TRAINING"]
        min_score = node["SCORE"] - node["SCORE_STEP"] * self.round
        if not 0 <= min_score <= 1:
            raise UsageError(
                f"{KEY}: in round {self.round}, SCORE - SCORE_STEP * {self.round} is {min_score:.3g}, which is no score"
            )
        config_file, weights = find_model(node)
        sha256 = file_sha256(local_file(weights))
        return Rule(config_file, weights, sha256, min_score, node["MAX_IOU"], node["STUFF_SCORE"])

    def _check_space(self, teacher: Teacher) -> None:
        model, labels = teacher.space, self.earlier.space
        if model != labels:
            raise UsageError(
                f"the model {self.rule.weights!r} knows {model.num_things} thing and {model.num_stuff} stuff classes, "
                f"{KEY}.LABELS {str(self.earlier.dataset.root)!r} has {labels.num_things} and {labels.num_stuff}: "
                f"name the labels that it was trained on"
            )

    def run(self, stages: Sequence[str] = STAGES, redo: str | None = None) -> Summary | None:
        """As `u2seg.pseudo.pipeline.U2SegGenerator.run`; nothing is fitted, and classes come from model and labels."""
        with LabelRun(self.output, self.photos, self.recipe, self._dependencies(), redo, self.executor) as run:
            steps = {
                "fit": lambda: False,
                "label": lambda: self._label(run),
                "cluster": lambda: False,
                "merge": lambda: run.merge(repair=lambda: self._label(run)),
            }
            for stage in STAGES:
                if stage in stages:
                    run.perform(stage, steps[stage])
            return run.finish(self.earlier.caveats, self._record(run)) if "merge" in stages else None

    def _label(self, run: LabelRun) -> bool:
        labels = self.earlier.labels
        return run.label(
            ask_model, RoundJob, rule=self.rule, labels=lambda photos: {p.id: labels[p.id] for p in photos}
        )

    def _dependencies(self) -> dict[str, dict[str, Any]]:
        """For each product, all that it depends on: the model is asked once, for masks and stuff together."""
        asked = {
            "U2SEG.INPUT": self.config["INPUT"],
            "U2SEG.EXECUTOR": {key: self.config["EXECUTOR"][key] for key in ("THREADS", "BATCH_SIZE")},
            "weights": {key: self.weights[key] for key in ("weights_sha256", "config_sha256")},
            "labels": self.earlier.sha256,
            "U2SEG.SELF_TRAINING": {key: getattr(self.rule, key) for key in ("min_score", "max_iou", "stuff_score")},
        }
        return {
            "fit": {},
            "masks": asked,
            "stuff": asked,
            "cluster": {},
            "merge": {"U2SEG.MERGE": self.config["MERGE"]},
        }

    def _record(self, run: LabelRun) -> dict[str, Any]:
        """For ``run.json``: the round, the model, the labels before it, and how many things came from where."""
        masks = run.files("masks")
        keys = [run.inventory.keys[photo.id] for photo in run.labelled()]
        totals = sum((read_arrays(masks.path(key), "tally")["tally"] for key in keys), np.zeros(len(COUNTS), np.int64))
        counts = dict(zip(COUNTS, totals.tolist(), strict=True))
        logger.info("things: %(predicted)d predicted, %(kept)d kept, %(replaced)d replaced", counts)
        return {
            "generator": type(self).__name__,
            "parts": {"label generator": f"{type(self).__name__} from u2seg (built in)"},
            "config": {"U2SEG": {key: self.config[key] for key in GROUPS}},
            "seed": self.recipe.seed,
            "weights": {"things": self.weights, "stuff": self.weights},
            "self_training": {
                "round": self.round,
                "labels": str(self.earlier.dataset.root),
                "labels_sha256": self.earlier.sha256,
                **asdict(self.rule),
                "things": counts,
            },
        }


@lru_cache(maxsize=1)
def load_teacher(rule: Rule, device: str) -> Teacher:
    """The model of ``rule`` on ``device``, once in each process, and without torch's notes to its own developers."""
    from u2seg.engine.demo import quiet

    quiet()
    from u2seg.engine.teacher import Teacher

    return Teacher.from_config(rule.config_file, rule.weights, confidence=rule.min_score, device=device)


def ask_model(job: RoundJob) -> Outcome:
    """Ask the model about each photo and merge its answer with the label; write what the merge stage reads."""
    outcome = Outcome()

    def work(group: Sequence[Photo]) -> None:
        readable = read_photos(group, outcome, job.recipe.max_pixels)
        with outcome.timed("predict"):
            answers = load_teacher(job.rule, job.device).answer([pixels.image for _, pixels in readable])
        for (photo, pixels), answer in zip(readable, answers, strict=True):
            with outcome.timed("merge with the labels"):
                outcome.attempt([photo], partial(write_round, job, answer, pixels.size))

    with bounded_threads(job.recipe.executor.threads):
        for batch in batches(job.photos, job.recipe.executor.batch_size):
            outcome.attempt(batch, work)
    return outcome


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
    earlier, clusters, stuff = label.read(*answer.stuff.shape)
    kept, stay = merge_things(answer.things, earlier, min_score=rule.min_score, max_iou=rule.max_iou)
    masks = MaskSet(
        np.concatenate([answer.things.masks[kept], earlier.masks[stay]]),
        np.concatenate([answer.things.scores[kept], earlier.scores[stay]]),
    )
    extra = {
        "clusters": np.concatenate([answer.clusters[kept], clusters[stay]]),
        "tally": np.array([len(kept), len(stay), len(earlier) - len(stay)]),
    }
    write_masks(job.masks.path(key), MaskRecord(masks, None, size, extra))
    write_png(job.stuff.path(key), merge_stuff(answer.stuff, answer.confidence, stuff, rule.stuff_score))
