"""From a coarse grid to the pixels of the image, for masks and stuff alike."""
