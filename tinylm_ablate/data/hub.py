"""``data=hub``: a data set of the Hugging Face hub, or a local folder in the hub's layout, through ``datasets``.

Only data files are read: code in a data set is never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.documents import Document
from tinylm_ablate.data.folder_walk import Found, kind_of
from tinylm_ablate.data.hashes import content_hashes
from tinylm_ablate.data.languages import identify, label
from tinylm_ablate.errors import UserError

_ROWS = 256


class HubSource:
    """The data set of ``data.name``, ``data.subset``, ``data.split`` and ``data.revision``."""

    def __init__(self, data: DataConfig, cache_dir: Path) -> None:
        self._data = data
        self._cache_dir = cache_dir
        self._name = str(data.name)
        self._local = Path(self._name).expanduser()
        self._passed_over: dict[str, dict[str, int]] = {}

    def identity(self) -> dict[str, Any]:
        """Name, subset, split and revision; for a local folder, its content instead of the name.

        Without a revision, a data set on the hub may change under its name; a corpus that is built already does not.
        """
        data = self._data
        named: Any = self._name
        if self._local.is_dir():
            files = self._local_files()
            hashes = content_hashes(files, self._cache_dir)
            named = [[path.relative_to(self._local).as_posix(), found] for path, found in zip(files, hashes, strict=True)]
        return {
            "source": "hub", "name": named, "subset": data.subset, "split": data.split, "revision": data.revision,
            "text_column": data.text_column, "language_column": data.language_column, "language": data.language,
        }  # fmt: skip

    def _local_files(self) -> list[Path]:
        return sorted(
            path
            for path in self._local.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self._local).parts)
        )

    def description(self) -> list[dict[str, Any]]:
        """One entry for the data set; after reading a local folder, with the files that do not belong to the data set."""
        data = self._data
        passed_over = {"passed_over": self._passed_over} if self._passed_over else {}
        return [
            {
                "name": self._local.resolve().name if self._local.is_dir() else self._name,
                "license": "see the data set's card",
                "origin": "a local folder" if self._local.is_dir() else "Hugging Face hub",
                "subset": data.subset,
                "split": data.split,
                "revision": data.revision,
            }
            | passed_over
        ]

    def bytes_estimate(self) -> None:
        """Unknown before reading."""
        return

    def documents(self) -> Iterator[Document]:
        """Yield the rows of the split in order; with ``data.streaming``, without downloading everything first.

        Raises:
            UserError: The data set, subset, split or column does not exist, or a row cannot be read.
        """
        data = self._data
        for number, (text, given) in enumerate(self._rows(), start=1):
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"data.name={self._name}, row {number:,}: column {data.text_column} holds {type(text).__name__}, not text; "
                    "set data.text_column to a column of text"
                )
            text = text or ""
            if data.language != "auto":
                language = data.language
            elif data.language_column is None:
                language = identify(text)
            else:
                language = label(text, given, f"data.name={self._name}, row {number:,}, column {data.language_column}")
            yield Document(text, language)

    def _rows(self) -> Iterator[tuple[Any, Any]]:
        import datasets

        data = self._data
        (datasets.enable_progress_bars if progress.shown() else datasets.disable_progress_bars)()
        progress.shorten_retries()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # logged errors are also raised
        try:
            rows = datasets.load_dataset(
                str(self._local) if self._local.is_dir() else self._name, data.subset, split=data.split, revision=data.revision,
                streaming=data.streaming, cache_dir=str(self._cache_dir / "hub"),
            )  # fmt: skip
            if self._local.is_dir():
                builder = datasets.load_dataset_builder(str(self._local), data.subset, cache_dir=str(self._cache_dir / "hub"))
                self._passed_over = self._others(builder.config.data_files)
            there = rows.column_names or list(next(iter(rows), {}))
            wanted = [data.text_column] + ([data.language_column] if data.language_column else [])
            for key, name in zip(("data.text_column", "data.language_column"), wanted, strict=False):
                if name not in there:
                    raise UserError(
                        f"data.name={self._name}: has no column {key}={name}; it has {', '.join(map(str, there)) or 'none'}"
                    )
            for batch in rows.select_columns(wanted).iter(batch_size=_ROWS):
                texts = batch[data.text_column]
                languages = batch[data.language_column] if data.language_column else [None] * len(texts)
                yield from zip(texts, languages, strict=True)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            # ValueError covers errors of pyarrow and json, OSError those of the network.
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            cause = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ is not None else ""
            settings = f"data.subset={data.subset} data.split={data.split} data.revision={data.revision}"
            raise UserError(
                f"data.name={self._name}: could not be read with {settings}: {reason}{cause}. Check the name, these settings "
                "and the network; a gated data set requires a login to the hub"
            ) from error

    def _others(self, data_files: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
        """Count the files of a local folder that are in no split; ``datasets`` reads only the most common kind of file."""
        used = {Path(name).resolve() for names in data_files.values() for name in names}
        found = Found()
        for path in self._local_files():
            if path.resolve() not in used:
                found.pass_over(f"{kind_of(path)} outside the data set", path.stat().st_size)
        return found.passed_over
