"""Hydra makes plugins only of classes that are defined here; sweepers and launcher themselves are in ``tinylm_ablate.grid``."""

from tinylm_ablate.execute import ray
from tinylm_ablate.grid import search, sweeper


class GridSweeper(sweeper.GridSweeper):
    """The sweeper that ``conf/hydra/sweeper/grid.yaml`` names."""


class OptunaSweeper(search.OptunaSweeper):
    """The sweeper that ``conf/hydra/sweeper/optuna.yaml`` names."""


class RayLauncher(ray.RayLauncher):
    """The launcher that ``conf/hydra/launcher/ray.yaml`` names."""
