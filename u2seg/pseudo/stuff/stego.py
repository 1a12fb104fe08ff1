"""Stuff by a head that was trained beforehand: STEGO, CAUSE.

Shapes: ``D`` feature channels; ``h, w`` feature grid; ``H, W`` image pixels; ``C`` channels of a code; ``S`` classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2seg.errors import DataError, UsageError

if TYPE_CHECKING:
    from u2seg.pseudo.stuff.code_checkpoint import StuffCheckpoint

logger = logging.getLogger(__name__)


class StegoStuff:
    """STEGO (ICLR 2022): codes distilled from feature correspondences, each patch to its nearest class by cosine."""

    method = "stego"

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
        from u2seg.pseudo.stuff.code_checkpoint import read_checkpoint

        if not checkpoint:
            name = f"U2SEG.STUFF.ARGS.{self.method}.checkpoint"
            raise UsageError(f"stuff segmenter {self.method!r} needs a trained checkpoint: set {name}")
        if not isinstance(blur, int) or blur < 1 or blur % 2 == 0:
            raise UsageError(f"blur must be an odd number of cells, not {blur!r}")
        if not 0 <= min_share < 1:
            raise UsageError(f"min_share must be a share of the photo from 0 to below 1, not {min_share!r}")
        self.num_classes, self.checkpoint = num_classes, str(checkpoint)
        self.alpha, self.flip, self.blur, self.min_share = float(alpha), bool(flip), blur, float(min_share)
        self.device = device
        self._networks: Any = None
        self._extractor: Any = None
        self.trained = read_checkpoint(checkpoint)
        self.sha256 = hashlib.sha256(Path(checkpoint).expanduser().read_bytes()).hexdigest()
        self._check_method_and_classes(self.trained)
        self.node = dict(features or self.trained.extractor)
        if features is not None:
            self.trained.check_features(self._features_info(), self.checkpoint)
        if flip and not self.node:
            raise UsageError("flip needs to know the features: the checkpoint does not name an extractor")

    @property
    def info(self) -> dict[str, Any]:
        """What run.json may say: the method, the sha256 of the checkpoint, and the features it was trained on."""
        return {"method": self.method, "checkpoint_sha256": self.sha256, "trained_on": self.trained.features}

    def fit(self, features: Iterable[np.ndarray]) -> StegoStuff:
        """Return itself: it was trained beforehand. ``features`` are left alone."""
        return self

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Class probabilities float32 (S, h, w) of ``image`` uint8 (H, W, 3) with ``features`` float32 (D, h, w).

        Raises:
            DataError: as `codes`.
        """
        import torch

        from u2seg.pseudo.stuff.code_head import class_probabilities
        from u2seg.pseudo.stuff.patches import drop_small, smooth

        codes = self._tensor(self.codes(image, features))
        with torch.inference_mode():
            found = class_probabilities(self._loaded()[1](codes), self.alpha)[0].cpu().numpy()
        smoothed = smooth(found, self.blur)
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
            found = head(self._tensor(features))
            if self.flip:
                found = (found + head(self._tensor(self._mirrored(image, features.shape))).flip(3)) / 2
        return found[0].cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights of the head (``head.*``) and the classes, float32 (S, C)."""
        from u2seg.pseudo.stuff.code_checkpoint import to_arrays

        return to_arrays(self.trained)

    def load_state(self, state: dict[str, np.ndarray]) -> StegoStuff:
        """Take up what `state` gave, and return itself.

        Raises:
            UsageError: it holds another number of classes.
        """
        import torch

        from u2seg.pseudo.stuff.code_checkpoint import StuffCheckpoint, head_arrays

        centres = torch.from_numpy(np.array(state["centres"], np.float32))
        old = self.trained
        loaded = StuffCheckpoint(old.method, head_arrays(state), centres, old.features, old.extractor)
        self._check_method_and_classes(loaded)
        self.trained, self._networks = loaded, None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_networks": None, "_extractor": None}

    def _check_method_and_classes(self, trained: StuffCheckpoint) -> None:
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

    def _loaded(self) -> tuple[Any, Any]:
        """Head and probe on their device, built the first time that they are needed in this process."""
        if self._networks is None:
            from u2seg.pseudo.stuff.code_head import ClusterProbe, CodeHead

            head = CodeHead(self.trained.dim, self.trained.code_dim)
            head.load_state_dict(self.trained.head)
            probe = ClusterProbe(self.trained.code_dim, self.num_classes)
            probe.load_state_dict({"centres": self.trained.centres})
            self._networks = tuple(part.to(self._place()).eval() for part in (head, probe))
        return self._networks

    def _place(self) -> str:
        import torch

        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def _tensor(self, features: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.array(features, np.float32))[None].to(self._place())

    def _own_extractor(self) -> Any:
        if self._extractor is None:
            from u2seg.plugins.registry import installed_plugins

            args = dict(self.node["ARGS"].get(self.node["NAME"], {}))
            args.pop("device", None)
            offer = installed_plugins().offer("feature extractor", self.node["NAME"])
            self._extractor = offer.build(args, {"device": self.device})
        return self._extractor

    def _features_info(self) -> Mapping[str, Any]:
        return getattr(self._own_extractor(), "info", {})

    def _mirrored(self, image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Features float32 (D, h, w) of the mirrored ``image``."""
        found = self._own_extractor().extract([np.ascontiguousarray(image[:, ::-1])])[0]
        if found.shape != shape:
            raise DataError(
                f"flip: the segmenter's own features are {found.shape}, those of the run {shape}; give both one size"
            )
        return found


class CauseStuff(StegoStuff):
    """CAUSE-MLP (2023): codes by contrast of concepts, each patch to its nearest class by cosine."""

    method = "cause"
