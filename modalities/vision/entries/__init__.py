"""What the registry says of the image models, one module per system: plain data, without torch."""
