"""Meta-architectures and ROI heads in Detectron2's registries."""
