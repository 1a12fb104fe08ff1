"""Trains STEGO and its kin: Detectron2's loop over crops without labels, two learning rates, plots, export, probes.

Shapes: ``n`` crops; ``D`` channels of a feature; ``C`` channels of a code; ``M`` patches; ``S`` classes.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from u2seg.config import plain
from u2seg.data.stego import CropLoader, CropSet, build_crop_loader
from u2seg.engine.trainer import Trainer
from u2seg.errors import UsageError
from u2seg.modeling.stego import STEGO, CodeModel
from u2seg.modeling.stego_loss import TERMS
from u2seg.modeling.stego_shifts import choose_shifts, plot_similarities, spherical_kmeans
from u2seg.pseudo import parts
from u2seg.pseudo.stuff.code_checkpoint import write_checkpoint
from u2seg.pseudo.stuff.code_head import whitening

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

FINAL = "stuff_final.pth"
SHIFT_CROPS, REFIT_CROPS = 384, 1500


def unwrap(model: torch.nn.Module) -> CodeModel:
    """The model itself, out of what spreads it over processes."""
    found = model.module if isinstance(model, DistributedDataParallel) else model
    if not isinstance(found, CodeModel):
        raise UsageError(f"MODEL.META_ARCHITECTURE {type(found).__name__} is not one of STEGO, CAUSE")
    return found


def some_features(model: CodeModel, crops: CropSet, count: int, seed: int, prefix: str = "") -> torch.Tensor:
    """Features float32 (n, D, h, w) of at most ``count`` crops drawn by ``seed``, or of the best neighbour of each."""
    places = np.sort(np.random.default_rng(seed).permutation(len(crops))[:count])
    if prefix:
        places = crops.neighbours[places, 0]
    found = []
    for start in range(0, len(places), 32):
        samples = [crops.take(int(place), prefix) for place in places[start : start + 32]]
        found.append(model.features_of(samples, prefix).cpu())
    return torch.cat(found)


class PlotSimilarities(HookBase):
    """Writes the histograms of similarities every ``period`` steps, and their means with every other figure."""

    def __init__(self, period: int, output: Path) -> None:
        self.period, self.output = period, output

    def before_step(self) -> None:
        """Have the model keep its pairs in steps that are plotted."""
        self.model = unwrap(self.trainer.model)
        if isinstance(self.model, STEGO):
            self.model.watched = {} if self._due() else None

    def after_step(self) -> None:
        """Plot them."""
        if not isinstance(self.model, STEGO) or not self.model.watched:
            return
        if comm.is_main_process():
            shifts = dict(zip(TERMS, self.model.shifts.tolist(), strict=True))
            step = self.trainer.iter + 1
            self.output.mkdir(parents=True, exist_ok=True)
            plot_similarities(self.model.watched, shifts, f"step {step}", self.output / f"similarities_{step:06d}.png")
            for term in TERMS:
                if self.model.watched.get(term):
                    codes = torch.cat([pair.codes.detach().flatten() for pair in self.model.watched[term]])
                    self.trainer.storage.put_scalar(f"similarity/codes_{term}", float(codes.mean()))
        self.model.watched = None

    def _due(self) -> bool:
        step = self.trainer.iter + 1
        return bool(self.period) and (step % self.period == 0 or step in (1, self.trainer.max_iter))


class RefitClasses(HookBase):
    """After the last step, fits the class centres anew: spherical k-means over codes of many crops."""

    def after_step(self) -> None:
        """Replace the centres, in every process alike, before the last checkpoint is written."""
        cfg = self.trainer.cfg
        if self.trainer.iter + 1 == cfg.SOLVER.MAX_ITER:
            crops, seed = self.trainer.data_loader.crops, max(cfg.SEED, 0)
            refit_classes(unwrap(self.trainer.model), crops, seed, cfg.STEGO.REFIT_WHITEN)


@torch.no_grad()
def refit_classes(model: CodeModel, crops: CropSet, seed: int, whiten: float, patches_per_crop: int = 32) -> None:
    """Whiten the codes of ``model`` by the power ``whiten``, and set its classes by spherical k-means on some crops."""
    training = model.training
    model.eval()
    features = some_features(model, crops, REFIT_CROPS, seed)
    codes = torch.cat([model.head(part.to(model.device)).cpu() for part in features.split(32)])
    flat = codes.flatten(2).transpose(1, 2)  # (n, h * w, C)
    chosen = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))[:patches_per_crop]
    vectors = flat[:, chosen].reshape(-1, flat.shape[2])
    if whiten:
        mean, axes = whitening(vectors, whiten)
        model.head.transform(mean.to(model.device), axes.to(model.device))
        vectors = (vectors - mean) @ axes
    centres = spherical_kmeans(normalize(vectors, dim=1), model.num_classes, seed)
    model.probe.centres.copy_(centres)
    for tensor in (*model.head.state_dict().values(), model.probe.centres):
        _same_everywhere(tensor)
    model.train(training)


def _same_everywhere(tensor: torch.Tensor) -> None:
    if comm.get_world_size() > 1:
        torch.distributed.broadcast(tensor, 0)


class StuffTrainer(Trainer):
    """Trains a `CodeModel`; writes ``stuff_final.pth``, which ``U2SEG.STUFF`` takes."""

    needs_class_counts = False
    """Class counts of a panoptic model are no business of this one."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> CropLoader:
        """Batches of crops of ``STEGO.IMAGES``."""
        return build_crop_loader(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Adam, with a learning rate of its own for the class centres (as STEGO's official code)."""
        probe = list(unwrap(model).probe.parameters())
        own = {id(parameter) for parameter in probe}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        groups = [{"params": rest}, {"params": probe, "lr": cfg.STEGO.PROBE_LR}]
        return torch.optim.Adam(groups, lr=cfg.SOLVER.BASE_LR)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, after our own."""
        hooks: list[HookBase | None] = [PlotSimilarities(self.cfg.STEGO.PLOT_PERIOD, Path(self.cfg.OUTPUT_DIR))]
        if self.cfg.STEGO.REFIT_PROBE:
            hooks.append(RefitClasses())
        return [*hooks, *super().build_hooks()]

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint; a run from the start first learns what its loss needs of the features."""
        super().resume_or_load(resume)
        if self.start_iter == 0:
            self._prepare()

    def _prepare(self) -> None:
        model, crops = unwrap(self.model), self.data_loader.crops
        seed = max(self.cfg.SEED, 0)
        if isinstance(model, STEGO) and self.cfg.STEGO.CHOOSE_SHIFTS:
            near = some_features(model, crops, SHIFT_CROPS, seed, "near_")
            own = some_features(model, crops, SHIFT_CROPS, seed)
            found = choose_shifts(own, near, model.num_classes, model.points, model.centring, seed)
            model.shifts.copy_(torch.tensor([found[term]["shift"] for term in TERMS]))
            _same_everywhere(model.shifts)
            logger.info("shifts chosen from the features: %s", json.dumps(found))
            if comm.is_main_process():
                Path(self.cfg.OUTPUT_DIR, "shifts.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        prepare = getattr(model, "prepare", None)
        if prepare is not None:
            prepare(some_features(model, crops, REFIT_CROPS, seed), seed)
            for buffer in model.buffers():
                _same_everywhere(buffer)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Write ``stuff_final.pth``; where ``DATASETS.TEST`` has labels, score cluster probe and linear probe."""
        found: dict[str, Any] = {}
        if comm.is_main_process():
            Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
            path = Path(cfg.OUTPUT_DIR) / FINAL
            write_checkpoint(path, unwrap(model).export())
            logger.info("stuff segmenter: %s (U2SEG.STUFF.NAME %s)", path, unwrap(model).method)
            for name in cfg.DATASETS.TEST:
                found[name] = score_checkpoint(cfg, path, name)
        comm.synchronize()
        return found


def score_checkpoint(cfg: CfgNode, path: Path, name: str) -> dict[str, dict[str, float]]:
    """Cluster probe and linear probe of the checkpoint at ``path`` on the labelled dataset ``name``, in percent."""
    from u2seg.images import read_image
    from u2seg.modeling.stego_evaluation import cluster_scores, count_overlap, linear_probe_scores, read_labelled
    from u2seg.plugins.registry import installed_plugins
    from u2seg.pseudo.refine.masks import refine_stuff
    from u2seg.pseudo.stuff.code_checkpoint import read_checkpoint

    settings = plain(cfg.U2SEG)
    extractor = parts.build_extractor(settings, cfg.MODEL.DEVICE, stuff=True)
    method = read_checkpoint(path).method
    args = {**parts.own_args({**settings["STUFF"], "NAME": method}), "checkpoint": str(path)}
    given = {
        "num_classes": settings["NUM_STUFF"],
        "device": cfg.MODEL.DEVICE,
        "features": parts.feature_settings(settings, stuff=True),
    }
    segmenter = installed_plugins().offer("stuff segmenter", method).build(args, given)
    refiner = parts.build_refiner(settings, stuff=True)
    labelled = read_labelled(name)
    tables, codes = [], []
    for index, (file, _) in enumerate(labelled.photos):
        image = read_image(file)
        features = extractor.extract([image])[0]
        codes.append(segmenter.codes(image, features))
        predicted = refine_stuff(refiner, image, segmenter.segment(image, features))
        tables.append(count_overlap(predicted, labelled.truth(index), segmenter.num_classes, len(labelled.names)))
    found = {"cluster": cluster_scores(np.stack(tables)), "linear": linear_probe_scores(codes, labelled)}
    _report(found, name, len(labelled))
    return found


def _report(found: dict[str, dict[str, float]], name: str, photos: int) -> None:
    for probe, scores in found.items():
        said = ", ".join(f"{key} {value:.1f}" for key, value in scores.items())
        if said:
            logger.info("%s probe on %d photos of %s (one_to_one, %%): %s", probe, photos, name, said)
