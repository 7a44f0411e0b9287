"""The shared trainer: how anything is trained. It knows no modality, no model and no Hub."""
