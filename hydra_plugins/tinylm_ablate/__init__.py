"""Hydra makes plugins only of classes that are defined in this package; the sweeper itself is ``tinylm_ablate.grid.sweeper``."""

from tinylm_ablate.grid import sweeper


class GridSweeper(sweeper.GridSweeper):
    """The sweeper that ``conf/hydra/sweeper/grid.yaml`` names."""
