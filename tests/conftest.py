"""Fixtures for all tests: composed configs, the default corpus, and a small corpus of its documents."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import settings

import tests.quick_disk  # noqa: F401
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import SPLITS, Corpus, open_corpus
from tinylm_ablate.grid.compose import compose as compose_shipped

# One process per core: more threads would only wait for each other, and small matrices are slower with two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow example on a busy machine is not a failure. ``--hypothesis-profile=deep`` tries many more.
settings.register_profile("tests", deadline=None, max_examples=30)
settings.register_profile("deep", deadline=None, max_examples=500)
settings.load_profile("tests")

#: Documents of each language in ``small_corpus``, by their split in the default corpus. The split of a text depends on its
#: hash, so documents of a single split would not fill all splits again.
SMALL_DOCUMENTS = {"train": 240, "validation": 30, "test": 30}


# Imports during the collection; see ``pytest_collection_finish``.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests that are not about them: ``train.device=auto`` would use one."""
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with modules of slow tests, of which one that started last would run alone; skip what needs a missing GPU."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a GPU; make test-gpu"))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: it never becomes garbage, and each full pass over it takes 0.4 s."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def compose() -> Callable[[list[str]], Config]:
    """``compose(["arch.depth=4"])`` returns the typed config of the shipped ``conf/`` with these overrides."""
    return compose_shipped


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The default corpus, fetched and built once in the checkout's cache; only for a few tests, since it has 20 MB."""
    cache = Path(__file__).resolve().parents[1] / "runs" / "cache"
    return open_corpus(compose_shipped(["data=default"]).data, cache)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all processes of a test session; use ``once`` to create what several of them need."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """Let the first process that needs a file or folder of ``shared`` make it under another name, while others wait."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f".{path.name}")
            make(unfinished)
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session")
def small_data(corpus: Corpus, shared: Path) -> list[str]:
    """Overrides for a file with the first documents of each language of the default corpus, about 0.5 MB."""

    def write(path: Path) -> None:
        lines = [
            json.dumps({"text": document.text, "language": language}, ensure_ascii=False) + "\n"
            for split, count in SMALL_DOCUMENTS.items()
            for language in corpus.languages
            for document in islice(corpus.documents(split, language), count)
        ]
        path.write_text("".join(lines), encoding="utf-8")

    text = once(shared / "small.jsonl", write)
    shares = ["data.validation_share=0.1", "data.test_share=0.1"]
    return ["data=files", f"data.path={text}", "data.language_column=language", *shares]


@pytest.fixture(scope="session")
def small_corpus(small_data: list[str], shared: Path) -> Corpus:
    """The corpus of ``small_data``, with both languages in every split; its cache is ``small_corpus.folder.parents[1]``."""
    small = open_corpus(compose_shipped(small_data).data, shared / "small_cache")
    assert all(small.summary["documents"][split].keys() == set(small.languages) for split in SPLITS)
    return small


@pytest.fixture(scope="session")
def small_cache(small_corpus: Corpus) -> str:
    """Override of the cache folder with the corpus of ``small_data``, and its tokenizer and shards once they exist."""
    return f"cache_dir={small_corpus.folder.parents[1]}"


@pytest.fixture(scope="session")
def empty_database(shared: Path) -> Path:
    """An sqlite file with MLflow's tables, whose creation takes a second or more."""

    def create(path: Path) -> None:
        from tinylm_ablate.tracking.mlflow_client import Store

        Store(f"sqlite:///{path}", None, "unused")._connect()

    return once(shared / "mlflow.db", create)
