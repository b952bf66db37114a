"""Grids and searches: composing and checking cells, tuning, and the sweeper plugins."""
