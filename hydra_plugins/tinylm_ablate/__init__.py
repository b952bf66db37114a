"""Classes that Hydra loads as plugins, which must be defined here; the implementations are in ``tinylm_ablate``."""

from tinylm_ablate.execute import ray
from tinylm_ablate.grid import search, sweeper


class GridSweeper(sweeper.GridSweeper):
    """The sweeper of ``conf/hydra/sweeper/grid.yaml``."""


class OptunaSweeper(search.OptunaSweeper):
    """The sweeper of ``conf/hydra/sweeper/optuna.yaml``."""


class RayLauncher(ray.RayLauncher):
    """The launcher of ``conf/hydra/launcher/ray.yaml``."""
