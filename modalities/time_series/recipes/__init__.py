"""Named presets, one module per system."""
