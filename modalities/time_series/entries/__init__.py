"""What the registry says of the time series models, one module per system: plain data, without torch."""
