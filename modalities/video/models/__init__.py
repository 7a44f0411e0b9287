"""Networks for videos, one file per system."""
