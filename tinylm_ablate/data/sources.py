"""Opens the source that ``data.source`` names: the one module that knows them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.check import data_mistakes
from tinylm_ablate.data.default import DefaultSource
from tinylm_ablate.data.documents import Document, Source
from tinylm_ablate.data.files import FileSource
from tinylm_ablate.data.hub import HubSource
from tinylm_ablate.errors import ConfigError


def open_source(data: DataConfig, cache_dir: Path) -> Source:
    """The source that ``data.source`` names.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
    """
    mistakes = data_mistakes(data)
    if mistakes:
        raise ConfigError(mistakes)
    if data.source == "files":
        return FileSource(data, cache_dir)
    if data.source == "hub":
        return HubSource(data, cache_dir)
    return DefaultSource(cache_dir)


def read_documents(data: DataConfig, cache_dir: Path) -> Iterator[Document]:
    """The documents as their source gives them: not yet deduplicated, filtered or split."""
    return open_source(data, cache_dir).documents()
