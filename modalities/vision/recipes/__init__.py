"""Named recipes of pre-training on images, one module per system."""
