"""A label generator that asks a trained model: one round of self-training (CutLER, CVPR 2023, section 3.4).

The model's confident things and stuff are merged into the labels that it was trained on, and go through the same
files, the same merge stage and the same writer as the labels of the factory. Nothing of Detectron2 is imported before
a model is asked for, so that the name can be listed anywhere.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from u2seg.config import get_pseudo_cfg, plain
from u2seg.engine.earlier_labels import EarlierLabels
from u2seg.engine.rounds import RoundJob, Rule, label_round, load_teacher
from u2seg.errors import UsageError
from u2seg.files import file_sha256
from u2seg.images import PhotoSet
from u2seg.pseudo.generators import PSEUDO_LABEL_GENERATORS, LabelGenerator
from u2seg.pseudo.intermediate import read_arrays
from u2seg.pseudo.run import LabelRun

logger = logging.getLogger(__name__)

KEY = "U2SEG.SELF_TRAINING"
GROUPS = ("GENERATOR", "SEED", "NUM_THINGS", "NUM_STUFF", "INPUT", "DEVICE", "SELF_TRAINING", "MERGE", "EXECUTOR")
"""Keys of ``U2SEG`` that mean something here."""
COUNTS = ("predicted", "kept", "replaced")


@PSEUDO_LABEL_GENERATORS.register()
class SelfTrainingGenerator(LabelGenerator):
    """A model trained on earlier labels (U2SEG.SELF_TRAINING.{LABELS,MODEL}); its confident predictions join them."""

    def __init__(self, cfg: CfgNode, photos: PhotoSet, output: str | Path) -> None:
        """Check settings, labels and model.

        The arguments are those of `LabelGenerator`.

        Raises:
            U2SegError: one of them can't be used, or they contradict each other.
        """
        if importlib.util.find_spec("detectron2") is None:
            raise UsageError("SelfTrainingGenerator needs Detectron2, which is not installed; see README.md")
        self.earlier = EarlierLabels(cfg.U2SEG.SELF_TRAINING.LABELS)
        super().__init__(self._with_counts(cfg), photos, output)
        if self.output.expanduser().resolve() == self.earlier.dataset.root.resolve():
            raise UsageError(f"--output is {KEY}.LABELS itself; a round makes new labels beside the old ones")
        self.config = plain(self.cfg.U2SEG)
        self.caveats, self.round = self.earlier.caveats, self.earlier.round + 1
        self.rule = self._rule()
        teacher = load_teacher(self.rule, "cpu")
        model, labels = teacher.space, self.earlier.space
        if model != labels:
            raise UsageError(
                f"the model {self.rule.weights!r} knows {model.num_things} thing and {model.num_stuff} stuff classes, "
                f"{KEY}.LABELS has {labels.num_things} and {labels.num_stuff}: name the labels that it was trained on"
            )
        self.weights = {
            "uri": self.rule.weights,
            "weights_sha256": self.rule.weights_sha256,
            "model": teacher.cfg.MODEL.META_ARCHITECTURE,
            "config_sha256": prediction_sha256(teacher.cfg),
        }
        logger.info(
            "round %d of self-training: things with a score above %.2f are used", self.round, self.rule.min_score
        )

    @classmethod
    def find_photos(cls, cfg: CfgNode, images: str | None, root: str | None) -> PhotoSet:
        """The photos that ``images`` names out of those of the labels; all of them where it names none."""
        return EarlierLabels(cfg.U2SEG.SELF_TRAINING.LABELS).photo_set(images, root)

    def _with_counts(self, cfg: CfgNode) -> CfgNode:
        """``cfg`` with K and S of the labels, unless others were asked for."""
        cfg, defaults, space = cfg.clone(), get_pseudo_cfg().U2SEG, self.earlier.space
        cfg.defrost()
        for key, count in (("NUM_THINGS", space.num_things), ("NUM_STUFF", space.num_stuff)):
            if cfg.U2SEG[key] not in (defaults[key], count):
                raise UsageError(
                    f"U2SEG.{key} is {cfg.U2SEG[key]}, but {self.earlier.dataset.root} has {count}; leave the key out"
                )
            cfg.U2SEG[key] = count
        return cfg

    def _rule(self) -> Rule:
        """CutLER prints the threshold 0.75 - 0.5 t, below zero from round 2 on; the default SCORE_STEP is 0.05."""
        from u2seg.engine.checkpoint import local_file
        from u2seg.engine.output_dir import last_checkpoint

        node = self.config["SELF_TRAINING"]
        min_score = node["SCORE"] - node["SCORE_STEP"] * self.round
        if not 0 <= min_score <= 1:
            raise UsageError(
                f"{KEY}: in round {self.round}, SCORE - SCORE_STEP * {self.round} is {min_score:.3g}, which is no score"
            )
        model = node["MODEL"] and Path(node["MODEL"]).expanduser()
        config_file = node["CONFIG_FILE"] or (model and str(model / "config.yaml"))
        weights = node["WEIGHTS"] or (model and last_checkpoint(model))
        if not config_file or not weights:
            raise UsageError(
                f"no trained model is named: set {KEY}.MODEL, now {node['MODEL']!r}, to the OUTPUT_DIR of a "
                f"tools/train_net.py that has saved a checkpoint, or set {KEY}.CONFIG_FILE and {KEY}.WEIGHTS"
            )
        sha256 = file_sha256(local_file(weights))
        return Rule(config_file, weights, sha256, min_score, node["MAX_IOU"])

    def _label(self, run: LabelRun) -> bool:
        def make_job(**fields: Any) -> RoundJob:
            labels = {photo.id: self.earlier.label(photo.id) for photo in fields["photos"]}
            return RoundJob(**fields, rule=self.rule, labels=labels)

        return run.label(label_round, make_job)

    def _dependencies(self) -> dict[str, dict[str, Any]]:
        """For each product, all that it depends on: the model is asked once, for masks and stuff together."""
        asked = {
            "U2SEG.INPUT": self.config["INPUT"],
            "U2SEG.EXECUTOR": {key: self.config["EXECUTOR"][key] for key in ("THREADS", "BATCH_SIZE")},
            "weights": {key: self.weights[key] for key in ("weights_sha256", "config_sha256")},
            "labels": self.earlier.sha256,
            "U2SEG.SELF_TRAINING": {key: getattr(self.rule, key) for key in ("min_score", "max_iou")},
        }
        merge = {"U2SEG.MERGE": self.config["MERGE"]}
        return {"fit": {}, "masks": asked, "stuff": asked, "cluster": {}, "merge": merge}

    def _record(self, run: LabelRun) -> dict[str, Any]:
        """For ``run.json``: the round, the model, the labels before it, and how many things came from where."""
        masks = run.index("masks")
        totals = sum(
            (read_arrays(masks, key, "tally")["tally"] for key in run.labelled()), np.zeros(len(COUNTS), np.int64)
        )
        counts = dict(zip(COUNTS, totals.tolist(), strict=True))
        logger.info("things: %(predicted)d predicted, %(kept)d kept, %(replaced)d replaced", counts)
        return {
            **super()._record(run),
            "parts": {"label generator": f"{type(self).__name__} from u2seg (built in)"},
            "config": {"U2SEG": {key: self.config[key] for key in GROUPS}},
            "weights": {"things": self.weights, "stuff": self.weights},
            "self_training": {
                "round": self.round,
                "labels": str(self.earlier.dataset.root),
                "labels_sha256": self.earlier.sha256,
                **asdict(self.rule),
                "things": counts,
            },
        }


def prediction_sha256(cfg: CfgNode) -> str:
    """sha256, hexadecimal, of what decides predictions beside the weights."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    return hashlib.sha256("".join(node.dump() for node in (cfg.MODEL, cfg.INPUT, cfg.TEST)).encode()).hexdigest()
