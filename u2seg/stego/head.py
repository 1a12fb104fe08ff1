"""The small network that a learned stuff segmenter puts on frozen features, and the file that it is kept in.

Shapes: ``B`` images; ``h, w`` feature grid; ``D`` channels of a feature; ``C`` channels of a code; ``S`` classes;
``M`` vectors.

The head is STEGO's (ICLR 2022): ``code = linear(f) + mlp(f)``, where ``f`` are features after dropout. Its
classes are unit vectors in the space of codes, and a patch belongs to the nearest by cosine. A file is a dict that
`u2seg.weights_file` reads: ``format`` and the fields of `StuffCheckpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from u2seg.errors import DataError, UsageError
from u2seg.pseudo.clusters import fill_empty, learn_centres
from u2seg.weights_file import read_weights, write_weights

FORMAT = "u2seg-stuff-1"
IDENTITY = ("model", "weights_sha256", "layer", "facet", "remove_key_bias", "position_resize")
"""What must be the same in training and use. The size of the input may differ, as it does in the paper."""


class CodeHead(nn.Module):
    """Features float32 (B, D, h, w) to codes float32 (B, C, h, w); training drops channels of the whole image."""

    def __init__(self, dim: int, code_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout2d(dropout)
        self.linear = nn.Conv2d(dim, code_dim, 1)
        self.mlp = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, code_dim, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        kept = self.dropout(features)
        return self.linear(kept) + self.mlp(kept)

    @torch.no_grad()
    def transform(self, mean: torch.Tensor, axes: torch.Tensor) -> None:
        """Put ``code -> (code - mean) @ axes`` into the last layers; ``mean`` float32 (C,), ``axes`` float32 (C, C)."""
        layers: list[Any] = [self.linear, self.mlp[2]]
        for layer, offset in zip(layers, (mean, torch.zeros_like(mean)), strict=True):
            layer.weight.copy_(torch.einsum("cdhw,ce->edhw", layer.weight, axes))
            layer.bias.copy_((layer.bias - offset) @ axes)


class ClusterProbe(nn.Module):
    """S vectors of C channels that a patch's code is compared with."""

    def __init__(self, code_dim: int, num_classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, code_dim))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine float32 (B, S, h, w) of each code (B, C, h, w) with each centre."""
        return torch.einsum("bchw,sc->bshw", normalize(codes.float(), dim=1), normalize(self.centres.float(), dim=1))

    def loss(self, codes: torch.Tensor) -> torch.Tensor:
        """Cosine k-means: minus the mean cosine of each code with its nearest centre."""
        return -self(codes).max(dim=1).values.mean()


def whitening(codes: torch.Tensor, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean float32 (C,) and axes float32 (C, C) that whiten ``codes`` float32 (M, C).

    They divide each principal component by its standard deviation to the ``power``: 0 only centres and rotates, 1 makes
    all components count alike.
    """
    mean = codes.mean(dim=0)
    centred = (codes - mean).double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(codes))
    floor = 1e-3 * variances[-1].clamp(min=1e-12)
    return mean, (axes * variances.clamp(min=floor) ** (-power / 2)).to(codes.dtype)


def spherical_kmeans(vectors: torch.Tensor, count: int, seed: int, starts: int = 3, steps: int = 30) -> torch.Tensor:
    """Unit centres float32 (S, C), the best of ``starts``, of the directions of ``vectors`` float32 (M, C).

    Raises:
        UsageError: there are fewer vectors, or fewer distinct ones, than ``count``, S.
    """
    if len(vectors) < count:
        raise UsageError(f"{len(vectors)} patches are too few for {count} classes: add photos, or ask for fewer")
    unit = normalize(vectors, dim=1).cpu().numpy()
    centres = fill_empty(unit, learn_centres(unit, count, seed, n_init=starts, max_iter=steps))
    return normalize(torch.from_numpy(centres), dim=1).to(vectors.device)


@dataclass(frozen=True)
class StuffCheckpoint:
    """A head, its classes, and the features they are for."""

    method: str  # The stuff segmenter that uses it: ``stego``, or a plugin's
    head: dict[str, torch.Tensor]  # State dict of `CodeHead`; ``linear.weight`` is (C, D, 1, 1)
    centres: torch.Tensor  # float32 (S, C)
    features: dict[str, Any]  # What the extractor said of itself in training; of `IDENTITY`, those that are known

    def modules(self) -> tuple[CodeHead, ClusterProbe]:
        """The head, in evaluation mode, and the classes; an error of some kind where they are something else."""
        code_dim, dim = self.head["linear.weight"].shape[:2]
        with torch.device("meta"):  # no memory is taken for what the file does not hold, whatever sizes it names
            head, probe = CodeHead(dim, code_dim).eval(), ClusterProbe(code_dim, len(self.centres))
        head.load_state_dict(self.head, assign=True)
        probe.load_state_dict({"centres": self.centres}, assign=True)
        return head.float(), probe.float()

    def check_use(self, method: str, num_classes: int, source: str) -> None:
        """Raise UsageError unless the stuff segmenter ``method`` with ``num_classes`` classes can use it."""
        if self.method != method:
            raise UsageError(
                f"checkpoint {source} was trained by {self.method!r}: set U2SEG.STUFF.NAME to {self.method}, "
                f"not {method}"
            )
        if len(self.centres) != num_classes:
            raise UsageError(
                f"checkpoint {source} has {len(self.centres)} classes, U2SEG.NUM_STUFF asks for {num_classes}"
            )

    def check_features(self, info: Mapping[str, Any], source: str) -> None:
        """Raise UsageError unless features that ``info`` describes are those that the head was trained on."""
        differing = [
            f"{key} {info[key]!r} instead of {self.features[key]!r}"
            for key in IDENTITY
            if key in info and key in self.features and info[key] != self.features[key]
        ]
        if differing:
            raise UsageError(
                f"checkpoint {source} was trained on other features than U2SEG.FEATURES (or U2SEG.STUFF.FEATURES) "
                f"gives: {'; '.join(differing)}"
            )


def write_checkpoint(path: Path, checkpoint: StuffCheckpoint) -> None:
    """Write ``checkpoint`` to ``path``, or raise UsageError where that can't be done."""
    head = {name: tensor.detach().cpu().float() for name, tensor in checkpoint.head.items()}
    plain = replace(checkpoint, head=head, centres=checkpoint.centres.detach().cpu().float())
    write_weights(path, {"format": FORMAT, **vars(plain)})


def read_checkpoint(path: str | Path) -> StuffCheckpoint:
    """Read a checkpoint; only tensors and plain values are, and a file that asks for anything else is refused.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged, or something else.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError(
            f"checkpoint {str(path)!r} does not exist; tools/train_net.py with a config of configs/STEGO makes one"
        )
    advice = "of a training run, give its stuff_final.pth, not model_final.pth"
    try:
        content = read_weights(path)
    except DataError as error:
        raise DataError(f"{error}; {advice}") from error
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        checkpoint = StuffCheckpoint(**{part.name: content[part.name] for part in fields(StuffCheckpoint)})
        checkpoint.modules()
        return checkpoint
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path} is no checkpoint of a learned stuff segmenter ({reason}); {advice}") from error
