from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import SPLITS, Corpus, open_corpus, split_of, text_fingerprint
from tinylm_ablate.errors import UserError

Make = Callable[..., DataConfig]


def write_jsonl(path: Path, texts: list[str], **columns: list[str]) -> Path:
    rows = [{"text": text, **{name: values[i] for name, values in columns.items()}} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def everything(corpus: Corpus) -> list[str]:
    return [document.text for split in SPLITS for document in corpus.documents(split)]


def test_every_text_is_once_in_one_split(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    repeated = texts + [f"  {text}\n" for text in texts[:100]] + texts[:50] + ["short", "", "   "]
    corpus = open_corpus(data_config(write_jsonl(tmp_path / "t.jsonl", repeated)), tmp_path / "cache")
    assert sorted(everything(corpus)) == sorted(texts)
    assert corpus.summary["read"] == len(repeated)
    assert corpus.summary["duplicates"] == 150
    assert corpus.summary["too_short"] == 3
    assert corpus.languages == ["en", "zh"]
    for split in SPLITS:
        documents = list(corpus.documents(split))
        for language in corpus.languages:
            chosen = list(corpus.documents(split, language))
            assert chosen == [document for document in documents if document.language == language]
            assert corpus.summary["documents"][split][language] == len(chosen)
            assert corpus.bytes(split, language) == sum(len(document.text.encode()) for document in chosen)
        assert corpus.bytes(split) == sum(len(document.text.encode()) for document in documents)
        for document in documents:
            digest = hashlib.sha256(document.text.encode()).digest()[:16]
            assert document.hash == digest.hex()
            assert split_of(digest, 0.2, 0.2) == split
    # A fifth of 400 each, within four standard deviations.
    assert all(48 <= sum(corpus.summary["documents"][split].values()) <= 112 for split in ("validation", "test"))
    assert list(corpus.documents("train", "fr")) == []
    with pytest.raises(ValueError, match="no split 'dev'"):
        list(corpus.documents("dev"))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=60))
def test_no_text_is_lost_or_duplicated(tmp_path_factory: pytest.TempPathFactory, data_config: Make, drawn: list[str]) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    filler = [f"filler number {number}" for number in range(40)]
    corpus = open_corpus(data_config(write_jsonl(folder / "t.jsonl", drawn + filler), min_characters=1), folder / "cache")
    assert sorted(everything(corpus)) == sorted({text.strip() for text in drawn if text.strip()} | set(filler))


def test_equal_text_gives_equal_bytes_in_any_location(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    first = open_corpus(data_config(write_jsonl(tmp_path / "a.jsonl", texts)), tmp_path / "one")
    (tmp_path / "deep").mkdir()
    second = open_corpus(data_config(write_jsonl(tmp_path / "deep" / "b.jsonl", texts)), tmp_path / "two")
    assert first.fingerprint == second.fingerprint
    for split in SPLITS:
        assert (first.folder / f"{split}.parquet").read_bytes() == (second.folder / f"{split}.parquet").read_bytes()


def test_built_once_and_rebuilt_only_when_damaged(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    data = data_config(write_jsonl(tmp_path / "t.jsonl", texts))
    corpus = open_corpus(data, tmp_path / "cache")
    file = corpus.folder / "train.parquet"
    content, built = file.read_bytes(), file.stat().st_mtime_ns
    assert open_corpus(data, tmp_path / "cache").summary == corpus.summary
    assert file.stat().st_mtime_ns == built
    leftover = corpus.folder.parent / f".{corpus.fingerprint}.killed"
    leftover.mkdir()
    file.write_bytes(content[:-100])
    again = open_corpus(data, tmp_path / "cache")
    assert file.read_bytes() == content and again.summary == corpus.summary
    assert not leftover.exists()


def test_the_fingerprint_depends_only_on_content_and_settings(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    path, cache = write_jsonl(tmp_path / "t.jsonl", texts), tmp_path / "cache"
    data = data_config(path)
    first = text_fingerprint(data, cache)
    assert open_corpus(data, cache).fingerprint == first
    changes = (
        {"min_characters": 51},
        {"max_documents": 9},
        {"test_share": 0.3},
        {"validation_share": 0.3},
        {"language": "x"},
        {"languages": ["en"]},
    )
    others = [text_fingerprint(data_config(path, **change), cache) for change in changes]
    assert len({first, *others}) == 1 + len(changes)
    # Neither the hub's settings nor streaming affect files.
    assert text_fingerprint(data_config(path, streaming=True, revision="x"), cache) == first
    write_jsonl(path, [*texts[:-1], texts[-1][::-1]])
    assert text_fingerprint(data, cache) != first


def test_max_documents_counts_documents_that_are_read(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    corpus = open_corpus(data_config(write_jsonl(tmp_path / "t.jsonl", texts), max_documents=60), tmp_path / "cache")
    assert sorted(everything(corpus)) == sorted(texts[:60])


def test_only_selected_languages_are_kept(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [*texts, *(text + "，这是中文的句子，不是别的语言。" * 40 for text in texts)])
    everything = open_corpus(data_config(path), tmp_path / "cache")
    assert set(everything.languages) == {"en", "zh"}
    english = open_corpus(data_config(path, languages=["en"]), tmp_path / "cache")
    for split in SPLITS:
        kept = [document.text for document in everything.documents(split, "en")]
        assert [document.text for document in english.documents(split)] == kept
    assert english.summary["other_languages"] == sum(counts["zh"] for counts in everything.summary["documents"].values())
    with pytest.raises(UserError, match=r"0 left, of data\.languages=\['fr'\]"):
        open_corpus(data_config(path, languages=["fr"]), tmp_path / "cache")


def test_small_languages_are_grouped_unless_they_are_named(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    german = "Der Wind zog über das Wasser, und niemand sprach von dem langen Winter, der vergangen war."
    many = [f"{german} Das ist der {number}. Satz von dieser Art." for number in range(100)]
    few = ["Ветер прошёл над водой, и никто не говорил о том, что было потеряно долгой зимой."]
    path = write_jsonl(tmp_path / "t.jsonl", [*texts, *many, *few])
    corpus = open_corpus(data_config(path), tmp_path / "cache")
    assert corpus.languages == ["de", "en", "other", "zh"] and corpus.summary["grouped"] == ["ru"]
    by_label = {label: [d.text for split in SPLITS for d in corpus.documents(split, label)] for label in corpus.languages}
    assert by_label["other"] == few and sorted(by_label["de"]) == sorted(many)
    counts = corpus.summary["documents"]
    assert sum(counts[split].get("other", 0) for split in SPLITS) == 1
    labels = ["en" if number % 2 == 0 else "zh" for number in range(len(texts))] + ["de"] * 100 + ["ru"]
    named = data_config(write_jsonl(tmp_path / "n.jsonl", [*texts, *many, *few], lang=labels), language_column="lang")
    assert open_corpus(named, tmp_path / "cache").languages == ["de", "en", "ru", "zh"]
    assert "ru" in open_corpus(data_config(path, languages=["ru", "de", "en"]), tmp_path / "cache").languages


def test_too_few_documents(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    cache = tmp_path / "cache"
    data = data_config(write_jsonl(tmp_path / "t.jsonl", [*texts[:2], "short", texts[0]]))
    with pytest.raises(UserError) as caught:
        open_corpus(data, cache)
    message = str(caught.value)
    assert "too few documents: 4 documents were read, 1 shorter than data.min_characters=50, 1 duplicates, 2 left" in message
    assert "data.validation_share=0.2" in message and "Provide more documents, or raise the shares" in message
    with pytest.raises(UserError, match=r"no document is left to train on: 4 documents were read, 4 shorter"):
        open_corpus(data_config(tmp_path / "t.jsonl", min_characters=10_000), cache)
    assert nothing_built(cache)


def nothing_built(cache: Path) -> bool:
    """Return whether the cache has no folder that a later run could mistake for text or shards."""
    return not [path for kind in ("text", "shards") for path in (cache / kind).glob("*") if path.is_dir()]


def test_texts_that_change_while_they_are_read_are_refused(
    tmp_path: Path, data_config: Make, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinylm_ablate.data import local_files as files

    path = write_jsonl(tmp_path / "t.jsonl", texts)
    rows = files.read_rows

    def read_and_change(*args: object, **options: object) -> object:
        yield from rows(*args, **options)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"text": "one more line that somebody wrote meanwhile, long enough to count"}) + "\n")

    monkeypatch.setattr(files, "read_rows", read_and_change)
    with pytest.raises(UserError, match="changed while it was read"):
        open_corpus(data_config(path), tmp_path / "cache")
    assert nothing_built(tmp_path / "cache")


def build_in_process(data: DataConfig, cache: Path, queue: multiprocessing.Queue) -> None:
    corpus = open_corpus(data, cache)
    queue.put((corpus.fingerprint, (corpus.folder / "train.parquet").stat().st_ino))


def test_processes_that_start_together_build_once(tmp_path: Path, data_config: Make, texts: list[str]) -> None:
    data = data_config(write_jsonl(tmp_path / "t.jsonl", texts))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=build_in_process, args=(data, tmp_path / "cache", queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(answers) == 1
    folder = tmp_path / "cache" / "text"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [next(iter(answers))[0]]


def test_many_row_groups_and_big_documents(tmp_path: Path, data_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinylm_ablate.data import corpus as module

    monkeypatch.setattr(module, "_GROUP_BYTES", 3000)
    texts = [
        f"{number} " + "word " * (number * 7 % 400) + "the end of this text, which is long enough to count"
        for number in range(120)
    ]
    with gzip.open(tmp_path / "t.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    corpus = open_corpus(data_config(tmp_path / "t.jsonl.gz"), tmp_path / "cache")
    assert sorted(everything(corpus)) == sorted(texts)
    order = {text: place for place, text in enumerate(texts)}
    for split in SPLITS:
        places = [order[document.text] for document in corpus.documents(split)]
        assert places == sorted(places)
