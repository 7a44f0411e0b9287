"""What training on images minimises, one file per objective."""
