"""Named presets, one file per system: functions that return recipes."""
