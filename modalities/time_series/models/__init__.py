"""Networks, one file per system."""
