"""Datasets in Detectron2's catalogs and what turns their entries into training batches."""
