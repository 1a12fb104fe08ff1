"""The parts that come with this package, offered through the same hooks as anyone's.

The modules named here import nothing heavier than numpy at their top, so that listing names stays quick.
"""

from __future__ import annotations

from u2seg.plugins.api import Factories, hookimpl


@hookimpl
def u2seg_feature_extractors() -> Factories:
    from u2seg.pseudo.features.vit import ViTFeatures

    return {"vit": ViTFeatures}


@hookimpl
def u2seg_mask_generators() -> Factories:
    from u2seg.pseudo.masks.maskcut import MaskCut, tokencut
    from u2seg.pseudo.masks.regiontree import RegionTree

    return {"maskcut": MaskCut, "tokencut": tokencut, "regiontree": RegionTree}


@hookimpl
def u2seg_clusterers() -> Factories:
    from u2seg.pseudo.clusters import KMeans

    return {"kmeans": KMeans}


@hookimpl
def u2seg_stuff_segmenters() -> Factories:
    from u2seg.pseudo.stuff import KMeansStuff
    from u2seg.stego.segmenter import StegoStuff

    return {"kmeans": KMeansStuff, "stego": StegoStuff}


@hookimpl
def u2seg_refiners() -> Factories:
    from u2seg.pseudo.refine.densecrf import BilateralRefiner, DenseCRFRefiner
    from u2seg.pseudo.refine.resize import Upsample

    return {"densecrf": DenseCRFRefiner, "bilateral": BilateralRefiner, "none": Upsample}


@hookimpl
def u2seg_register_detectron2() -> None:
    import u2seg.stego.trainer  # noqa: F401  registers the model and the trainer
