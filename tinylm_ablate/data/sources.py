"""Opens the source selected by ``data.source``; the only module that imports all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.documents import Document, Source
from tinylm_ablate.data.hub import HubSource
from tinylm_ablate.data.local_files import FileSource
from tinylm_ablate.data.mistakes import data_mistakes
from tinylm_ablate.data.package_text import PackagedText
from tinylm_ablate.data.text_sets import TEXT_SETS
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.extension import TARGET, normal, part


def open_source(data: DataConfig, cache_dir: Path) -> Source:
    """Open the source selected by ``data.source``.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
    """
    mistakes = data_mistakes(data)
    if mistakes:
        raise ConfigError(mistakes)
    match data.source:
        case "files":
            return FileSource(data, cache_dir)
        case "hub":
            return HubSource(data, cache_dir)
        case "mixture":
            return Mixture(data, cache_dir)
        case "own":
            return OwnSource(data)
        case packaged:
            return PackagedText(TEXT_SETS[packaged], cache_dir)


def with_source(data: DataConfig, tokens: int) -> DataConfig:
    """Resolve ``data.source=auto`` for a training budget of ``tokens``."""
    if data.source != "auto":
        return data
    return dataclasses.replace(data, source="large" if tokens >= data.large_from else "default")


def near_duplicates(data: DataConfig) -> float | None:
    """Minimum similarity of near duplicates; None keeps all documents."""
    if not isinstance(data.near_duplicates, str):
        return data.near_duplicates
    return TEXT_SETS[data.source].near_duplicates if data.source in TEXT_SETS else None


def _alone(data: DataConfig, where: str) -> DataConfig:
    """Settings of one source of a mixture: ``where`` is "default", "large", "hub:NAME" or a path."""
    alone = dataclasses.replace(data, sources={}, weights={}, path=None, name=None)
    if where in TEXT_SETS:
        return dataclasses.replace(alone, source=where, language="auto", language_column=None, encoding="utf-8")
    if where.startswith("hub:"):
        return dataclasses.replace(alone, source="hub", name=where.removeprefix("hub:"), encoding="utf-8")
    return dataclasses.replace(alone, source="files", path=where)


class OwnSource:
    """A user-defined class with ``documents`` and, optionally, other methods of ``Source``.

    It is identified by the class and its settings; a class whose text can change must define ``identity``.
    """

    def __init__(self, data: DataConfig) -> None:
        self._described, self._own = data.own, part(data.own, "data.own", ("documents",))

    def identity(self) -> dict[str, Any]:
        """The class, its settings, and its own ``identity``."""
        own = {"identity": self._own.identity()} if hasattr(self._own, "identity") else {}
        return {"source": "own", "part": normal(self._described, "data.own")} | own

    def description(self) -> list[dict[str, Any]]:
        """Its own description, or the name of the class."""
        if hasattr(self._own, "description"):
            return list(self._own.description())
        return [{"name": self._described[TARGET]}]

    def bytes_estimate(self) -> int | None:
        """Its own estimate, if any."""
        estimate: int | None = self._own.bytes_estimate() if hasattr(self._own, "bytes_estimate") else None
        return estimate

    def documents(self) -> Iterator[Document]:
        """Yield its documents."""
        yield from self._own.documents()


class Mixture:
    """The sources of ``data.sources``, one after another.

    Raises:
        ConfigError: Some of them cannot be opened; all are named.
    """

    def __init__(self, data: DataConfig, cache_dir: Path) -> None:
        self._sources: dict[str, Source] = {}
        mistakes = []
        for name, where in data.sources.items():
            try:
                self._sources[name] = open_source(_alone(data, where), cache_dir)
            except UserError as error:
                mistakes.append(f"data.sources.{name}={where}: {str(error).removeprefix(f'data.path={where}: ')}")
        if mistakes:
            raise ConfigError(mistakes)

    def identity(self) -> dict[str, Any]:
        """Identities of the sources, in order."""
        return {"source": "mixture", "sources": [[name, source.identity()] for name, source in self._sources.items()]}

    def description(self) -> list[dict[str, Any]]:
        """Entries of all sources under their names in the mixture."""
        return [{"source": name} | entry for name, source in self._sources.items() for entry in source.description()]

    def bytes_estimate(self) -> int | None:
        """Sum of the sources' estimates; None if one is unknown."""
        estimates = [source.bytes_estimate() for source in self._sources.values()]
        return None if None in estimates else sum(filter(None, estimates))

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the sources, each with the name of its source."""
        for name, source in self._sources.items():
            for document in source.documents():
                yield dataclasses.replace(document, source=name)
