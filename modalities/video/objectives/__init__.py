"""What training on videos minimises, one file per objective."""
