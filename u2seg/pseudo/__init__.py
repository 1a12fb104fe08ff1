"""The label factory: from photos to a pseudo-panoptic dataset. Never imports Detectron2."""
