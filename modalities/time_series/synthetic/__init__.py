"""Generated series for pre-training: a mix of priors, each a function of a random generator, vectorised over series."""
