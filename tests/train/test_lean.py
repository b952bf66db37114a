"""The quicker import of Lightning."""

from __future__ import annotations

import json
import subprocess
import sys

#: What is asked of a fresh process, since torchmetrics is imported once.
ASK = """
import importlib, json, sys
from tinylm_ablate.train.lean import import_torchmetrics
import_torchmetrics()
import lightning.pytorch
import torch
import torchmetrics
from lightning_utilities.core.imports import RequirementCache, package_available
metric = torchmetrics.MeanMetric()
metric.update(torch.tensor([1.0, 3.0]))
print(json.dumps({
    "slow": [name for name in ("scipy.signal", "transformers", "matplotlib") if name in sys.modules],
    "mean": metric.compute().item(),
    "numpy": bool(RequirementCache("numpy")) and package_available("numpy"),
    "scipy": package_available("scipy") == (importlib.util.find_spec("scipy") is not None),
}))
"""


def test_lightning_comes_without_what_metrics_would_import_and_nothing_else_changes() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"slow": [], "mean": 2.0, "numpy": True, "scipy": True}
