"""What the modality offers, as plain data: one module per system."""
