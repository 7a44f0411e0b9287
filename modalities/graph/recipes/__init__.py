"""Named presets: the papers' recipes, and `tiny` ones that run in seconds."""
