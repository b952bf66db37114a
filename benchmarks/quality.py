"""Training loss of our fast path compared with eager fp32: 300 steps on real text, with three seeds.

The peer is transformers' ``LlamaForCausalLM``, eager and in fp32, with the same initial weights, batches, AdamW, schedule and
clipping. Ours are compiled layers, in fp32 and in bf16; if bf16 is emulated, its results are the same. A loss is the mean of
the last twenty steps. Differences are paired by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, Result, load
from benchmarks.models import transformers_model

PATHS = {"transformers, fp32, eager": None, "ours, fp32, compiled": "fp32", "ours, bf16, compiled": "bf16"}
SEEDS = 3
STEPS = 300
PARTS = tuple(f"{path}, seed {seed}" for seed in range(SEEDS) for path in PATHS)

#: A model for which bf16 can be emulated in a minute: a quarter of a million parameters.
SETTINGS = [
    "scale=s32", "arch.depth=4", "arch.width=48", "arch.head_dim=16", "train.context_length=64", "train.batch_tokens=512",
    f"train.tokens={STEPS * 512}", "train.precision=fp32", "cache_dir=runs/cache",
]  # fmt: skip


def run(part: str, windows: int) -> Result:
    """Train one path with one seed; the number of windows is ignored."""
    del windows
    path, _, seed = part.rpartition(", seed ")
    return {"losses": list(_losses(PATHS[path], int(seed)))}


def _losses(precision: str | None, seed: int) -> Iterator[float]:
    """The loss of each step, nats; ``precision`` None is transformers."""
    import numpy as np
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.data.batches import Batches
    from tinylm_ablate.data.corpus import open_corpus
    from tinylm_ablate.data.shards import open_shards
    from tinylm_ablate.formats.huggingface import to_huggingface
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.optimizer.optimizers import build_optimizer
    from tinylm_ablate.optimizer.schedule import run_factor
    from tinylm_ablate.settle import settle
    from tinylm_ablate.tokenizer.vocabularies import open_vocabulary
    from tinylm_ablate.train.compile import compiled

    settled = settle(compose([*SETTINGS, f"seed={seed}"]))
    config, shape = settled.config, settled.shape
    cache = Path(config.cache_dir)
    corpus = open_corpus(config.data, cache)
    vocabulary = open_vocabulary(config.tokenizer, shape.vocab_size, settled.source_vocab_size, corpus, cache)
    batches = Batches(open_shards(corpus, vocabulary, cache).tokens("train"), config.train.context_length, seed, round=0)
    decoder = Decoder(shape)
    initialize(decoder, settled.init, seed)
    model: Any = decoder
    if precision is None:
        model = transformers_model(shape)
        model.load_state_dict(to_huggingface(decoder.state_dict(), shape))
    optimizer = build_optimizer(model, settled.optimizer, settled.learning_rate)
    sequences = config.train.batch_tokens // config.train.context_length
    with compiled(decoder, precision is not None):
        for step in range(settled.steps):
            positions = np.arange(step * sequences, (step + 1) * sequences, dtype=np.int64)
            ids = torch.from_numpy(batches.inputs(positions)).long()
            if precision is None:
                logits = model(input_ids=ids[:, :-1]).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            else:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    loss = decoder.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            for group in optimizer.param_groups:
                group["lr"] = settled.learning_rate * run_factor(
                    config.optimizer, settled.rounds, step, config.train.batch_tokens
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield loss.item()


def summary() -> Result | None:
    """Return the last losses by path, their spread over seeds, and a paired test of each of ours; None if runs are missing.

    Draws the curves into ``quality.svg``.
    """
    import numpy as np
    from scipy import stats

    results = load("quality")
    if not set(PARTS) <= set(results):
        return None
    curves = {path: np.array([results[f"{path}, seed {seed}"]["losses"] for seed in range(SEEDS)]) for path in PATHS}
    last = {path: losses[:, -20:].mean(1) for path, losses in curves.items()}
    reference, *rest = PATHS
    found: Result = {
        "last": {path: values.tolist() for path, values in last.items()},
        "spread": float(last[reference].std(ddof=1)),
    }
    for path in rest:
        difference = last[path] - last[reference]
        low, high = stats.t.interval(0.95, SEEDS - 1, difference.mean(), stats.sem(difference))
        p = float(stats.ttest_rel(last[path], last[reference]).pvalue)
        found[path] = {"difference": float(difference.mean()), "interval": [float(low), float(high)], "p": p}
    _draw(curves)
    return found


def _draw(curves: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quality"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for path, style in zip(curves, ("-", "--", ":"), strict=True):
        mean = curves[path].mean(0)
        axes.plot(range(1, len(mean) + 1), mean, style, label=path)
        axes.fill_between(range(1, len(mean) + 1), curves[path].min(0), curves[path].max(0), alpha=0.15)
    axes.set(xlabel="step", ylabel="training loss, nats (mean and range of three seeds)")
    axes.legend()
    figure.savefig(RESULTS / "quality.svg", metadata={"Date": None})
    plt.close(figure)
