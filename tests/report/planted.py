"""Arms with a known true difference, drawn as runs differ: by seed, and by document."""

from __future__ import annotations

import math

import numpy as np

from tinylm_ablate.report.arms import Arm, Run, Section
from tinylm_ablate.report.documents import Scores

BITS = "test/bits_per_byte/all"


def section(source, effects, seeds, seed_spread=0.02, document_spread=0.1, documents=80, label=""):
    """A section with an arm for each entry of ``effects`` ({name: bits a byte above 3}).

    Args:
        source: Generator.
        effects: By arm, the truth over all documents and seeds.
        seeds: Runs of each arm.
        seed_spread: Deviation of a run over seeds.
        document_spread: Deviation over documents of what an arm is worse at.
        documents: Of each of two languages.
    """
    sizes = source.integers(200, 2000, (2, documents)).astype(float)
    shared = source.normal(3, 0.5, (2, documents))
    arms = []
    for name, effect in effects.items():
        own = shared + effect + source.normal(0, document_spread, (2, documents))
        arm = Arm({"arm": name})
        for seed in range(seeds):
            bits = own + source.normal(0, seed_spread) + source.normal(0, 0.02, (2, documents))
            groups = {
                ("bits_per_byte", language): (values * size * math.log(2), size)
                for language, values, size in zip(("en", "zh"), bits, sizes, strict=True)
            }
            mean = float(np.mean((bits * sizes).sum(axis=1) / sizes.sum(axis=1)))
            arm.runs[seed] = Run(f"{name}-{seed}", seed, {BITS: mean}, Scores("items", groups))
        arms.append(arm)
    return Section(label, ["arm"], arms)
