"""Stuff by a head that was trained beforehand.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``H, W`` image pixels; ``C`` channels of a code; ``S`` classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import DataError, UsageError, within
from u2seg.files import file_sha256
from u2seg.runtime import worker_device

if TYPE_CHECKING:
    import torch

    from u2seg.plugins.api import FeatureExtractor


class CodeStuff:
    """What learned stuff segmenters share: a head's codes, each patch to its nearest class by cosine."""

    method = ""
    """Name of the segmenter, which its checkpoints carry."""

    def __init__(
        self,
        *,
        num_classes: int,
        checkpoint: str = "",
        features: Mapping[str, Any] | None = None,
        device: str = "cpu",
        alpha: float = 10.0,
        flip: bool = False,
        blur: int = 5,
        min_share: float = 0.1,
    ) -> None:
        """Read and check the checkpoint.

        Args:
            num_classes: S, as the checkpoint has it.
            checkpoint: ``stuff_final.pth`` of a training run.
            features: node ``{NAME, ARGS}`` of the features that `segment` will be given; checked against those that
                the checkpoint was trained on. None leaves only their number of channels to be checked.
            device: torch device of the head (and of the network, with ``flip``).
            alpha: factor of the cosine before the softmax (official: 2; DenseCRF does better with 10).
            flip: average codes with those of the mirrored photo, as the official evaluation does, at the cost of a
                second pass of the network for each photo.
            blur: side in cells of the square that probabilities are averaged over; 1 is no smoothing (official).
            min_share: classes on less than this share of the photo are dropped in that photo, and their cells go to
                the likeliest class that is left; 0 keeps all (official).

        Raises:
            UsageError: the file does not exist, or is for other features or another number of classes.
            DataError: it is damaged or something else.
        """
        from u2seg.pseudo.parts import Part, build_once
        from u2seg.stego.head import read_checkpoint

        if not checkpoint:
            key = f"U2SEG.STUFF.ARGS.{self.method}.checkpoint"
            raise UsageError(f"stuff segmenter {self.method!r} needs a trained checkpoint: set {key}")
        if within("blur", blur, 1, whole=True) % 2 == 0:
            raise UsageError(f"blur must be an odd number of cells, not {blur}")
        within("min_share", min_share, 0, 1)
        self.num_classes, self.checkpoint, self.device = num_classes, str(checkpoint), device
        self.alpha, self.flip, self.blur, self.min_share = float(alpha), bool(flip), blur, float(min_share)
        trained = read_checkpoint(checkpoint)
        trained.check_use(self.method, num_classes, self.checkpoint)
        self.head, self.probe = trained.modules()
        sha256 = file_sha256(Path(checkpoint).expanduser())
        self.info = {"method": self.method, "checkpoint_sha256": sha256, "trained_on": trained.features}
        """What run.json may say: the method, the sha256 of the checkpoint, and the features it was trained on."""
        self.extractor: FeatureExtractor | None = None
        if features is not None:
            self.extractor = build_once(Part.from_config("feature extractor", features), device=device)
            trained.check_features(getattr(self.extractor, "info", {}), self.checkpoint)
        elif flip:
            raise UsageError("flip needs the extractor of the features: give it as features={NAME, ARGS}")

    def fit(self, features: Iterable[np.ndarray]) -> CodeStuff:
        """Return itself: it was trained beforehand. ``features`` are left alone."""
        return self

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Class probabilities float32 (S, h, w) of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Raises:
            DataError: as `codes`.
        """
        import torch

        from u2seg.pseudo.stuff import drop_small, smooth

        codes = self._tensor(self.codes(image, features))
        with torch.inference_mode():
            cosine = self.probe.to(codes.device)(codes)
            scores = torch.softmax(self.alpha * cosine, dim=1)[0].cpu().numpy()
        smoothed = smooth(scores, self.blur)
        return drop_small(smoothed, self.min_share) if self.min_share else np.clip(smoothed, 0, 1)

    def codes(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Codes float32 (C, h, w) of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Raises:
            DataError: the features have another number of channels than the checkpoint was trained on, or, with
                ``flip``, another shape than the segmenter's own.
        """
        import torch

        if len(features) != self.head.dim:
            raise DataError(
                f"features have {len(features)} channels, and those that checkpoint {self.checkpoint} was trained on "
                f"{self.head.dim}"
            )
        tensor = self._tensor(features)
        with torch.inference_mode():
            codes = self.head.to(tensor.device)(tensor)
            if self.flip and self.extractor is not None:
                mirrored = self.extractor.extract([np.ascontiguousarray(image[:, ::-1])])[0]
                if mirrored.shape != features.shape:
                    raise DataError(
                        f"flip: the segmenter's own features are {mirrored.shape}, those of the run {features.shape}; "
                        "use one size"
                    )
                codes = (codes + self.head(self._tensor(mirrored)).flip(3)) / 2
        return codes[0].cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Nothing: the checkpoint has it all."""
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> CodeStuff:
        """Return itself."""
        return self

    def _tensor(self, features: np.ndarray) -> torch.Tensor:
        """``features`` (D, h, w) as a batch of one, float32 (1, D, h, w), on this worker's device."""
        import torch

        return torch.from_numpy(np.array(features, np.float32))[None].to(worker_device(self.device))


class StegoStuff(CodeStuff):
    """STEGO (ICLR 2022): codes distilled from feature correspondences, each patch to its nearest class by cosine."""

    method = "stego"
