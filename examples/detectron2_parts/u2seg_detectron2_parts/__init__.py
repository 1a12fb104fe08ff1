"""What is chosen by name from Detectron2's registries and u2seg's: a mapper, a model, a generator, and their keys.

``pip install -e examples/detectron2_parts``, then
``python tools/generate_pseudo.py ... U2SEG.GENERATOR BrightnessGenerator`` and
``python tools/train_net.py --config-file examples/detectron2_parts/train.yaml ...``.
"""

from u2seg import hookimpl

U2SEG_CONTRACT = 1


@hookimpl
def u2seg_add_config(cfg):
    """Keys with their defaults; u2seg calls this for configs of labelling and of training."""
    node = type(cfg)
    cfg.BRIGHTNESS = node({"LEVEL": 0.6})  # from which a pixel belongs to a thing, share of white
    cfg.GREY = node({"PROBABILITY": 0.2})  # share of the training photos that lose their colours
    cfg.TRUST = node({"POWER": 1.0})  # a batch counts by its share of labelled pixels, to this power


@hookimpl
def u2seg_register_detectron2():
    """Importing them registers them; only now, since they import Detectron2."""
    import u2seg_detectron2_parts.generator
    import u2seg_detectron2_parts.mapper
    import u2seg_detectron2_parts.model  # noqa: F401
