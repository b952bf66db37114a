"""Grids: composing and checking cells, the sweeper that walks them, and the plan of what they cost."""
