"""Stuff by a head that was trained beforehand.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``H, W`` image pixels; ``C`` channels of a code; ``S`` classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import DataError, UsageError
from u2seg.files import file_sha256
from u2seg.runtime import worker_device

if TYPE_CHECKING:
    import torch

    from u2seg.plugins.api import FeatureExtractor
    from u2seg.stego.head import ClusterProbe, CodeHead


class CodeStuff:
    """What learned stuff segmenters share: a head's codes, each patch to its nearest class by cosine."""

    method = ""
    """Name of the segmenter, which its checkpoints carry."""
    _networks: tuple[CodeHead, ClusterProbe] | None = None
    """On their device, built the first time that they are needed in this process."""

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
            flip: average codes with those of the mirrored photo, as the official evaluation does, at the cost of a
                second pass of the network for each photo.
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
        self.trained = read_checkpoint(checkpoint)
        if self.trained.method != self.method:
            raise UsageError(
                f"checkpoint {checkpoint} was trained by {self.trained.method!r}: set U2SEG.STUFF.NAME to "
                f"{self.trained.method}, not {self.method}"
            )
        self._check_classes()
        self.sha256 = file_sha256(Path(checkpoint).expanduser())
        self.node = dict(features or self.trained.extractor)
        if features is not None:
            self.trained.check_features(getattr(self._extractor, "info", {}), self.checkpoint)
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
            scores = torch.softmax(self.alpha * self._loaded()[1](codes), dim=1)[0].cpu().numpy()
        smoothed = smooth(scores, self.blur)
        return drop_small(smoothed, self.min_share) if self.min_share else np.clip(smoothed, 0, 1)

    def codes(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Codes float32 (C, h, w) of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Raises:
            DataError: the features have another number of channels than the checkpoint was trained on, or, with
                ``flip``, another shape than the segmenter's own.
        """
        import torch

        head, _ = self._loaded()
        if len(features) != head.dim:
            raise DataError(
                f"features have {len(features)} channels, and those that checkpoint {self.checkpoint} was trained on "
                f"{head.dim}"
            )
        with torch.inference_mode():
            codes = head(self._tensor(features))
            if self.flip:
                mirrored = self._extractor.extract([np.ascontiguousarray(image[:, ::-1])])[0]
                if mirrored.shape != features.shape:
                    raise DataError(
                        f"flip: the segmenter's own features are {mirrored.shape}, those of the run {features.shape}; "
                        "use one size"
                    )
                codes = (codes + head(self._tensor(mirrored)).flip(3)) / 2
        return codes[0].cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights of the head (``head.*``) and the classes, float32 (S, C)."""
        tensors = {f"head.{name}": tensor for name, tensor in self.trained.head.items()}
        return {name: tensor.numpy() for name, tensor in {**tensors, "centres": self.trained.centres}.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> CodeStuff:
        """Take up what `state` gave, and return itself; a UsageError where it holds another number of classes."""
        import torch

        tensors = {name.removeprefix("head."): torch.from_numpy(np.array(state[name], np.float32)) for name in state}
        self.trained = replace(self.trained, centres=tensors.pop("centres"), head=tensors)
        self._check_classes()
        self._networks = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_networks": None}

    def _check_classes(self) -> None:
        if len(self.trained.centres) != self.num_classes:
            raise UsageError(
                f"checkpoint {self.checkpoint} has {len(self.trained.centres)} classes, and U2SEG.NUM_STUFF asks for "
                f"{self.num_classes}"
            )

    def _loaded(self) -> tuple[CodeHead, ClusterProbe]:
        if self._networks is None:
            from u2seg.stego.head import ClusterProbe, CodeHead

            code_dim, dim = self.trained.head["linear.weight"].shape[:2]
            head, probe = CodeHead(dim, code_dim), ClusterProbe(code_dim, self.num_classes)
            head.load_state_dict(self.trained.head)
            probe.load_state_dict({"centres": self.trained.centres})
            place = worker_device(self.device)
            self._networks = head.to(place).eval(), probe.to(place).eval()
        return self._networks

    def _tensor(self, features: np.ndarray) -> torch.Tensor:
        """``features`` (D, h, w) as a batch of one, float32 (1, D, h, w), where the head is."""
        import torch

        return torch.from_numpy(np.array(features, np.float32))[None].to(worker_device(self.device))

    @property
    def _extractor(self) -> FeatureExtractor:
        """An extractor of the features that `segment` is given; the same object on every call in this process."""
        from u2seg.pseudo.parts import Part, build_once

        return build_once(Part.from_config("feature extractor", self.node), device=self.device)


class StegoStuff(CodeStuff):
    """STEGO (ICLR 2022): codes distilled from feature correspondences, each patch to its nearest class by cosine."""

    method = "stego"
