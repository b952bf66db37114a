"""The quicker import of Lightning."""

from __future__ import annotations

import json
import subprocess
import sys

#: Script of a new process, since Lightning is imported only once per process.
ASK = """
import importlib, json, sys
SLOW = ("scipy.signal", "transformers", "matplotlib", "torch._dynamo")
from tinylm_ablate.train.lean import import_lightning
import_lightning()
import torch
early = [name for name in SLOW if name in sys.modules]
import tinylm_ablate.train.fit
from lightning.pytorch import LightningModule
optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())
optimizer.zero_grad()
late = [name for name in SLOW if name in sys.modules]
compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager")
import torchmetrics
from lightning_utilities.core.imports import RequirementCache, package_available
metric = torchmetrics.MeanMetric()
metric.update(torch.tensor([1.0, 3.0]))
print(json.dumps({
    "slow": early + late,
    "compiled": type(compiled).__module__ + " " + str(list(compiled(torch.ones(1, 2)).shape)),
    "mean": metric.compute().item(),
    "numpy": bool(RequirementCache("numpy")) and package_available("numpy"),
    "scipy": package_available("scipy") == (importlib.util.find_spec("scipy") is not None),
}))
"""


def test_lightning_comes_without_optional_packages_and_compiler_and_nothing_else_changes() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "slow": [], "compiled": "torch._dynamo.eval_frame [1, 2]", "mean": 2.0, "numpy": True, "scipy": True,
    }  # fmt: skip
