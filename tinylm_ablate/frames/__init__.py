"""Finished runs as data frames, and what statistics read: the one way from records to evidence, for grids and reports."""
