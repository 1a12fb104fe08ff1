"""Stuff by a head that was trained beforehand.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``H, W`` image pixels; ``C`` channels of a code; ``S`` classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.config import part_args
from u2seg.errors import DataError, UsageError
from u2seg.plugins.registry import installed_plugins
from u2seg.runtime import worker_device

if TYPE_CHECKING:
    import torch

    from u2seg.plugins.api import FeatureExtractor
    from u2seg.stego.checkpoint import StuffCheckpoint
    from u2seg.stego.head import ClusterProbe, CodeHead


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
            checkpoint: ``stuff_final.pth`` of a training run, or an official STEGO ``.ckpt``.
            features: node ``{NAME, ARGS}`` of the features that `segment` will be given; checked against those that
                the checkpoint was trained on. None leaves only their number of channels to be checked.
            device: torch device of the head (and of the network, with ``flip``).
            alpha: factor of the cosine before the softmax (official: 2; DenseCRF does better with 10).
            flip: average codes with those of the mirrored photo, as the official evaluation does. The mirrored photo's
                features are not among what `segment` is given: the segmenter then runs an extractor of its own, and
                labelling stuff costs a second pass of the network for each photo.
            blur: side in cells of the square that probabilities are averaged over; 1 is no smoothing (official).
            min_share: classes on less than this share of the photo are dropped in that photo, and their cells go to
                the likeliest class that is left; 0 keeps all (official).

        Raises:
            UsageError: the file does not exist, or is for other features or another number of classes.
            DataError: it is damaged or something else.
        """
        from u2seg.stego.checkpoint import read_checkpoint

        if not checkpoint:
            key = f"U2SEG.STUFF.ARGS.{self.method}.checkpoint"
            raise UsageError(f"stuff segmenter {self.method!r} needs a trained checkpoint: set {key}")
        if not isinstance(blur, int) or blur < 1 or blur % 2 == 0:
            raise UsageError(f"blur must be an odd number of cells, not {blur!r}")
        if not 0 <= min_share < 1:
            raise UsageError(f"min_share must be a share of the photo from 0 to below 1, not {min_share!r}")
        self.num_classes, self.checkpoint, self.device = num_classes, str(checkpoint), device
        self.alpha, self.flip, self.blur, self.min_share = float(alpha), bool(flip), blur, float(min_share)
        self._networks: tuple[CodeHead, ClusterProbe] | None = None
        self._extractor: FeatureExtractor | None = None
        self.trained = self._checked(read_checkpoint(checkpoint))
        self.sha256 = hashlib.sha256(Path(checkpoint).expanduser().read_bytes()).hexdigest()
        self.node = dict(features or self.trained.extractor)
        if features is not None:
            self.trained.check_features(getattr(self._build_extractor(), "info", {}), self.checkpoint)
        if flip and not self.node:
            raise UsageError("flip needs to know the features: the checkpoint does not name an extractor")

    @property
    def info(self) -> dict[str, Any]:
        """What run.json may say: the method, the sha256 of the checkpoint, and the features it was trained on."""
        return {"method": self.method, "checkpoint_sha256": self.sha256, "trained_on": self.trained.features}

    def fit(self, features: Iterable[np.ndarray]) -> CodeStuff:
        """Return itself: it was trained beforehand. ``features`` are left alone."""
        return self

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Class probabilities float32 (S, h, w) of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Raises:
            DataError: as `codes`.
        """
        import torch

        from u2seg.pseudo.stuff.patches import drop_small, smooth

        codes = self._tensor(self.codes(image, features))
        with torch.inference_mode():
            scores = self._loaded()[1].probabilities(codes, self.alpha)[0].cpu().numpy()
        smoothed = smooth(scores, self.blur)
        return drop_small(smoothed, self.min_share) if self.min_share else np.clip(smoothed, 0, 1)

    def codes(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Codes float32 (C, h, w) of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Raises:
            DataError: the features have another number of channels than the checkpoint was trained on.
        """
        import torch

        if len(features) != self.trained.dim:
            raise DataError(
                f"features have {len(features)} channels, and those that checkpoint {self.checkpoint} was trained on "
                f"{self.trained.dim}"
            )
        head, _ = self._loaded()
        with torch.inference_mode():
            codes = head(self._tensor(features))
            if self.flip:
                codes = (codes + head(self._tensor(self._mirrored(image, features.shape))).flip(3)) / 2
        return codes[0].cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights of the head (``head.*``) and the classes, float32 (S, C)."""
        tensors = {f"head.{name}": tensor for name, tensor in self.trained.head.items()}
        return {name: tensor.numpy() for name, tensor in {**tensors, "centres": self.trained.centres}.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> CodeStuff:
        """Take up what `state` gave, and return itself.

        Raises:
            UsageError: it holds another number of classes.
        """
        import torch

        tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in state.items()}
        head = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
        self.trained = self._checked(replace(self.trained, head=head, centres=tensors["centres"]))
        self._networks = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_networks": None, "_extractor": None}

    def _checked(self, trained: StuffCheckpoint) -> StuffCheckpoint:
        """``trained``, or a UsageError where it is another method's or has another number of classes."""
        if trained.method != self.method:
            raise UsageError(
                f"checkpoint {self.checkpoint} was trained by {trained.method!r}: set U2SEG.STUFF.NAME to "
                f"{trained.method}, not {self.method}"
            )
        if trained.num_classes != self.num_classes:
            raise UsageError(
                f"checkpoint {self.checkpoint} has {trained.num_classes} classes, and U2SEG.NUM_STUFF asks for "
                f"{self.num_classes}"
            )
        return trained

    def _loaded(self) -> tuple[CodeHead, ClusterProbe]:
        """Head and probe on their device, built the first time that they are needed in this process."""
        if self._networks is None:
            from u2seg.stego.head import ClusterProbe, CodeHead

            head, probe = CodeHead(self.trained.dim, self.trained.code_dim), ClusterProbe(1, 1)
            head.load_state_dict(self.trained.head)
            probe.centres.data = self.trained.centres
            place = worker_device(self.device)
            self._networks = head.to(place).eval(), probe.to(place).eval()
        return self._networks

    def _tensor(self, features: np.ndarray) -> torch.Tensor:
        """``features`` (D, h, w) as a batch of one, float32 (1, D, h, w), where the head is."""
        import torch

        return torch.from_numpy(np.array(features, np.float32))[None].to(worker_device(self.device))

    def _build_extractor(self) -> FeatureExtractor:
        if self._extractor is None:
            args = {name: value for name, value in part_args(self.node).items() if name != "device"}
            offer = installed_plugins().offer("feature extractor", self.node["NAME"])
            self._extractor = offer.build(args, {"device": self.device})
        return self._extractor

    def _mirrored(self, image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Features float32 (D, h, w) of the mirrored ``image``."""
        features = self._build_extractor().extract([np.ascontiguousarray(image[:, ::-1])])[0]
        if features.shape != shape:
            raise DataError(
                f"flip: the segmenter's own features are {features.shape}, those of the run {shape}; use one size"
            )
        return features


class StegoStuff(CodeStuff):
    """STEGO (ICLR 2022): codes distilled from feature correspondences, each patch to its nearest class by cosine."""

    method = "stego"
