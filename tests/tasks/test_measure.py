"""Measuring several runs as one program."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.helpers import TINY, run
from tinylm_ablate.errors import RunFailed
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tracking import follow


def test_a_diverged_run_does_not_prevent_the_records_of_others(
    small_data: list[str], small_corpus: object, tmp_path: Path
) -> None:
    del small_corpus
    words = [*TINY, *small_data, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "evaluate.cloze_questions=0"]
    configs = [compose([*words, f"seed={seed}", "train.stack=2"]) for seed in range(2)]
    for config in configs:
        run(config)
    graph = Graph([(f"seed {config.seed}", settle(config)) for config in configs])
    broken, sound = (task for task in graph.measures if task.request.measure.name == "bits_per_byte")
    weights = broken.run.folder / "model" / "model.safetensors"
    save_file({name: value * torch.nan for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    for task in (broken, sound):
        task.product.unlink()
    with follow(configs[0].tracking, tmp_path / "runs") as tracked:
        error, fine = broken.do_together([broken, sound], tracked)
    assert isinstance(error, RunFailed) and fine is None
    assert not broken.done() and sound.done()
