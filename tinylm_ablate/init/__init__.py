"""Initial weights: random rules, or layers and neurons of a larger model."""
