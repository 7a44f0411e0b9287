"""Networks for images, one file per system."""
