"""Finished runs as data frames and as evidence for statistics, for grids and reports."""
