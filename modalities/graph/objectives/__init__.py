"""What pre-training on graphs minimises, one objective per file."""
