"""Hydra makes plugins only of classes that are defined here; the sweeper itself is ``tinylm_ablate.grid.sweeper``."""

from tinylm_ablate.grid import sweeper


class GridSweeper(sweeper.GridSweeper):
    """The sweeper that ``conf/hydra/sweeper/grid.yaml`` names."""
