"""From runs to tables: records are read, compared over seeds, set beside the paper's numbers, and written to ``results/``.

Nothing here trains.
"""

from tinylm_ablate.report.records import read_grids, read_records

__all__ = ["read_grids", "read_records"]
