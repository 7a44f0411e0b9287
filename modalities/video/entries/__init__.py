"""What the registry says of the video models, one module per system: plain data, without torch."""
