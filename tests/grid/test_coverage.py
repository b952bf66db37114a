"""Figure 2: coverage of the most frequent entries of the large vocabulary, as files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import TINY
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import Corpus, open_corpus
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.coverage import write_coverage
from tinylm_ablate.modes import perform
from tinylm_ablate.settle import settle
from tinylm_ablate.tokenizer.vocabularies import large_vocabulary, open_counts

PAPER = [78.68, 87.24, 94.49, 97.86, 99.84, 100.0]


@pytest.fixture(scope="module")
def overrides(small_data: list[str], small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("coverage")
    cache = small_corpus.folder.parents[1]
    places = [f"runs_dir={folder}/runs", f"results_dir={folder}/results", f"cache_dir={cache}"]
    compact = ["tokenizer=compact", "tokenizer.source_vocab_size=600"]
    return [*TINY, *small_data, *places, "+experiments=figure02_coverage", *compact]


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> Config:
    config = compose(overrides)
    perform(config)
    return config


def rows(config: Config) -> list[dict[str, str]]:
    with (Path(config.results_dir) / "figure02_coverage.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_papers_six_values_are_next_to_ours(config: Config) -> None:
    found = rows(config)
    assert [float(row["paper_accumulated_frequency_percent"]) for row in found] == PAPER
    assert [int(row["vocab_size"]) for row in found] == [48, 95, 190, 285, 428, 600]
    ours = [float(row["accumulated_frequency_percent"]) for row in found]
    cache = Path(config.cache_dir)
    corpus = open_corpus(config.data, cache)
    large = large_vocabulary(config.tokenizer, 600, corpus, cache)
    counts = np.sort(open_counts(large, corpus, config.tokenizer.train_bytes, cache))[::-1]
    assert ours == [pytest.approx(100 * counts[: int(row["vocab_size"])].sum() / counts.sum(), abs=0.005) for row in found]
    assert ours == sorted(ours) and ours[-1] == 100


def test_page_and_figure_are_written_and_the_same_each_time(config: Config) -> None:
    results = Path(config.results_dir)
    names = ["figure02_coverage.csv", "figure02_coverage.md", "figures/figure02_coverage.png", "figures/figure02_coverage.svg"]
    files = {name: (results / name).read_bytes() for name in names}
    assert "(figures/figure02_coverage.svg)" in files["figure02_coverage.md"].decode()
    assert not (results / "runs.csv").exists() and not Path(config.runs_dir).exists()
    perform(config)
    assert files == {name: (results / name).read_bytes() for name in names}


def test_each_large_vocabulary_is_a_curve_and_counts_once(overrides: list[str], config: Config, tmp_path: Path) -> None:
    cells = [
        settle(compose([*overrides, f"results_dir={tmp_path}", *more]))
        for more in (["seed=0"], ["seed=1"], ["tokenizer.source_vocab_size=500"])
    ]
    del config
    output = write_coverage(cells)
    assert str(tmp_path / "figure02_coverage.md") in output
    with (tmp_path / "figure02_coverage.csv").open() as stream:
        found = [(row["large_vocabulary"], row["entries"]) for row in csv.DictReader(stream)]
    assert list(dict.fromkeys(found)) == [("BPE trained on this text", "600"), ("BPE trained on this text (2)", "500")]
    assert len(found) == 12


def test_a_table_without_such_values_is_a_mistake(overrides: list[str], config: Config) -> None:
    del config
    with pytest.raises(ConfigError, match=r"experiment\.paper=table02_depth_width: .* allowed: table01_tokenizer"):
        perform(compose([*overrides, "experiment.paper=table02_depth_width"]))
