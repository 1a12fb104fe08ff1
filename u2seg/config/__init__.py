"""The config: keys with their defaults and bounds, and the one loader that fills them."""

from u2seg.config.keys import add_u2seg_config, check_bounds, get_pseudo_cfg
from u2seg.config.loader import fill, part_args, plain, put_back

__all__ = ["add_u2seg_config", "check_bounds", "fill", "get_pseudo_cfg", "part_args", "plain", "put_back"]
