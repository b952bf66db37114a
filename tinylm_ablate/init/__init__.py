"""Initial weights: random rules, layers and neurons of a larger model, and Hugging Face's layout in and out."""
