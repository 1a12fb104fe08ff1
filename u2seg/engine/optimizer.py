"""Detectron2's optimiser, with lower learning rates down a vision transformer that is tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.config import CfgNode
from torch import nn

from u2seg.modeling.trunk import ViTBlocks


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """What Detectron2 makes of ``cfg.SOLVER``, with the learning rates of ``MODEL.VIT.LR_DECAY``."""
    solver = cfg.SOLVER
    groups = parameter_groups(cfg, model, lr_factor_func=learning_rate_factor(model, cfg.MODEL.VIT.LR_DECAY))
    options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV, "foreach": True}
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD(groups, lr=solver.BASE_LR, **options))


def parameter_groups(cfg: CfgNode, model: nn.Module, **exceptions: Any) -> list[dict[str, Any]]:
    """The parameters of ``model`` with their learning rates and decays of ``cfg.SOLVER``, for a torch optimiser.

    ``exceptions`` are arguments of Detectron2's `get_default_optimizer_params` for some of the parameters.
    """
    solver = cfg.SOLVER
    return get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        **exceptions,
    )


def learning_rate_factor(model: nn.Module, decay: float) -> Callable[[str], float]:
    """From a parameter's name to the factor of its learning rate: 1 but in a ViT that is tuned.

    There it is ``decay`` for the last block, its square for the one before, and so on down to the embedding of patches
    (BEiT, ICLR 2022, appendix; as ViTDet uses it).
    """
    factors = {}
    for prefix, part in model.named_modules():
        if not isinstance(part, ViTBlocks):
            continue
        depth = max(request.layer for request in part.requests) + 1
        for name, _ in part.named_parameters():
            place = name.removeprefix("network.").split(".")
            above = depth - int(place[1]) if place[0] == "blocks" else 0 if place[0] == "norm" else depth + 1
            factors[f"{prefix}.{name}"] = decay**above
    return lambda name: factors.get(name, 1.0)
