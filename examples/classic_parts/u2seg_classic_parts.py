"""Three parts for u2seg from well-known libraries, with no vision transformer among them.

``pip install -e examples/classic_parts``, then any of ``U2SEG.FEATURES.NAME resnet``, ``U2SEG.MASKS.NAME felzenszwalb``
and ``U2SEG.STUFF.NAME mixture``. Nothing heavy is imported before a part is built.

Shapes: ``H, W`` image pixels; ``h, w`` feature grid; ``D`` channels; ``N`` masks; ``S`` stuff classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from u2seg import MaskSet, UsageError, hookimpl

U2SEG_CONTRACT = 1


@hookimpl
def u2seg_feature_extractors():
    return {"resnet": ResNetFeatures}


@hookimpl
def u2seg_mask_generators():
    return {"felzenszwalb": Felzenszwalb}


@hookimpl
def u2seg_stuff_segmenters():
    return {"mixture": MixtureStuff}


class ResNetFeatures:
    """Output of one stage of a ResNet of torchvision."""

    def __init__(
        self,
        *,
        model: str = "resnet50",
        weights: str = "DEFAULT",  # of torchvision, or "" for random ones
        stage: int = 3,  # 1 to 4
        size: int = 480,  # pixels per side of the network's input
        device: str = "cpu",  # given by u2seg, as is the seed
        random_state: int = 0,
    ) -> None:
        if stage not in (1, 2, 3, 4):
            raise UsageError(f"stage of resnet must be 1 to 4, not {stage}")
        self.model, self.weights, self.stage, self.size = model, weights, stage, size
        self.device, self.random_state = device, random_state
        self.stride = 2 ** (stage + 1)

    @cached_property
    def _network(self) -> Any:
        import torch
        from torchvision.models import get_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            network = get_model(self.model, weights=self.weights or None)
        return network.eval().to(self.device)

    @property
    def dim(self) -> int:
        return self._network.fc.in_features // 2 ** (4 - self.stage)

    def prepare(self) -> dict[str, Any]:
        """Download the weights before any worker starts, and say which they are."""
        digest = hashlib.sha256()
        for tensor in self._network.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        caveat = "trained with labels" if self.weights else "random weights"
        return {
            "weights": f"torchvision {self.model} {self.weights}",
            "weights_sha256": digest.hexdigest(),
            "stage": self.stage,
            "size": self.size,
            "caveat": caveat,
        }

    def extract(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features float32 (D, h, w) of each image uint8 (H, W, 3)."""
        import torch
        from torchvision.transforms import functional as transforms

        results = []
        for image in images:
            pixels = transforms.to_tensor(image.copy())  # float32 (3, H, W) in [0, 1]
            pixels = transforms.resize(pixels, [self.size, self.size], antialias=True)
            x = transforms.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))[None].to(self.device)
            net = self._network
            with torch.inference_mode():
                x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
                for layer in (net.layer1, net.layer2, net.layer3, net.layer4)[: self.stage]:
                    x = layer(x)
            results.append(x[0].cpu().numpy())
        return results


class Felzenszwalb:
    """Regions of Felzenszwalb and Huttenlocher's graph (IJCV 2004) by scikit-image; compact ones score high."""

    def __init__(self, *, scale: float = 300.0, min_area: float = 0.01, max_area: float = 0.5) -> None:
        if not 0 <= min_area < max_area <= 1:
            raise UsageError(f"min_area and max_area are shares of the photo, not {min_area} and {max_area}")
        self.scale, self.min_area, self.max_area = scale, min_area, max_area

    def generate(self, image: np.ndarray, features: np.ndarray) -> MaskSet:
        """Masks bool (N, H, W) of ``image``; ``features`` are not looked at."""
        from skimage.measure import regionprops
        from skimage.segmentation import felzenszwalb

        regions = felzenszwalb(image, scale=self.scale) + 1
        kept = [r for r in regionprops(regions) if self.min_area <= r.area / regions.size <= self.max_area]
        if not kept:
            return MaskSet.empty(*regions.shape)
        return MaskSet(np.stack([regions == r.label for r in kept]), np.array([r.extent for r in kept], np.float32))


class MixtureStuff:
    """Gaussian mixture over the patches of a sample of the photos, by scikit-learn."""

    def __init__(self, *, num_classes: int, random_state: int = 0, max_patches: int = 20_000) -> None:
        from sklearn.mixture import GaussianMixture

        self.num_classes, self.random_state, self.max_patches = num_classes, random_state, max_patches
        self._model = GaussianMixture(num_classes, covariance_type="diag", random_state=random_state, reg_covar=1e-4)

    def fit(self, features: Iterable[np.ndarray]) -> MixtureStuff:
        """Learn from features float32 (D, h, w), which come one by one."""
        patches = np.concatenate([_patches(grid) for grid in features])
        order = np.random.default_rng(self.random_state).permutation(len(patches))
        self._model.fit(patches[order[: self.max_patches]])
        return self

    def segment(self, image: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 (S, h, w); the refiner brings them to pixels."""
        probabilities = self._model.predict_proba(_patches(features))
        return np.ascontiguousarray(probabilities.T.reshape(-1, *features.shape[1:]), np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learnt, for stuff.npz."""
        names = ("weights_", "means_", "covariances_", "precisions_cholesky_")
        return {name: getattr(self._model, name) for name in names}

    def load_state(self, state: dict[str, np.ndarray]) -> MixtureStuff:
        """Take up what `state` gave."""
        vars(self._model).update(state)
        return self


def _patches(features: np.ndarray) -> np.ndarray:
    """Patches float64 (h * w, D) of length 1."""
    flat = features.reshape(len(features), -1).T.astype(np.float64)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-8)
