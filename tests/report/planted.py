"""Arms with a known true difference, drawn as runs differ: by seed, and by document."""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy.stats

from tinylm_ablate.report.arms import Arm, Run, Section
from tinylm_ablate.report.documents import Scores
from tinylm_ablate.report.statistics import Estimate

BITS = "test/bits_per_byte/all"

#: What 1,000 simulations exceed in one case of 1,000 if the rate of false verdicts is 5 %: 72. Where the truth lies at a bound,
#: the rate is close to that by design, and more than 50 would come by chance in every other draw.
MOST_FALSE = int(scipy.stats.binom.ppf(0.999, 1000, 0.05))


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


def simulated(source, effects, seeds, seed_spread=0.02, document_spread=0.1, documents=80, count=1000):
    """What ``estimate`` says of arms that are drawn as in ``section``, many times over and all at once.

    Returns:
        A data set: bits, (simulations, arms, seeds, languages, documents), and sizes, (simulations, languages, documents); and
        for each pair of arms (by position) the first minus the second, an estimate a simulation.
    """
    shape = (count, len(effects), seeds, 2, documents)
    sizes = source.integers(200, 2000, (count, 2, documents)).astype(float)
    bits = source.normal(3, 0.5, (count, 1, 1, 2, documents)) + np.reshape(effects, (1, -1, 1, 1, 1))
    bits = bits + source.normal(0, document_spread, (*shape[:2], 1, *shape[3:])) + source.normal(0, 0.02, shape)
    bits += source.normal(0, seed_spread, (*shape[:3], 1, 1))
    found = {}
    for first, second in itertools.combinations(range(len(effects)), 2):
        apart = bits[:, first] - bits[:, second]
        by_seed = ((apart * sizes[:, None]).sum(-1) / sizes.sum(-1)[:, None]).mean(-1)
        own = apart.mean(1) * sizes
        rest = own - own.sum(-1, keepdims=True) / sizes.sum(-1, keepdims=True) * sizes
        variances = documents / (documents - 1) * (rest**2).sum(-1) / sizes.sum(-1) ** 2 / 4
        deviations = by_seed.std(axis=1, ddof=1)
        found[first, second] = [
            Estimate(float(mean), float(deviation), seeds, tuple((float(v), documents - 1) for v in parts))
            for mean, deviation, parts in zip(by_seed.mean(1), deviations, variances, strict=True)
        ]
    return (bits, sizes), found
