from __future__ import annotations

import math
from types import SimpleNamespace

import pyarrow.parquet
import pytest

from tinylm_ablate.measure import evaluate


def config(**changes):
    return SimpleNamespace(
        **{"max_bytes": 4000, "cloze_questions": 12, "cloze_context": 40, "cloze_continuation": 20, **changes}
    )


def test_metrics_have_flat_names_and_agree_with_the_rows(model, vocabulary, texts, tmp_path):
    evaluation = evaluate(model, vocabulary, texts, config(), 64)
    metrics = evaluation.metrics
    for split in ("validation", "test"):
        for language in ("en", "zh"):
            rows = [row for row in evaluation.documents if row["split"] == split and row["language"] == language]
            name = f"{split}/bits_per_byte/{language}"
            assert metrics[f"{name}/documents"] == len(rows)
            assert 3997 < metrics[f"{name}/bytes"] <= 4000
            nats, size = (sum(row[key] for row in rows) for key in ("nats", "bytes"))
            assert metrics[name] == pytest.approx(nats / size / math.log(2))
            assert metrics[f"{name}/standard_error"] > 0
        assert metrics[f"{split}/bits_per_byte/all"] == pytest.approx(
            (metrics[f"{split}/bits_per_byte/en"] + metrics[f"{split}/bits_per_byte/zh"]) / 2
        )
    for language in ("en", "zh"):
        assert metrics[f"test/cloze/{language}/questions"] == 12
        assert 0 <= metrics[f"test/cloze/{language}"] <= 1
    assert metrics["test/cloze/all/standard_error"] > 0
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in metrics.values())

    documents, questions = evaluation.save(tmp_path)
    assert pyarrow.parquet.read_table(documents).to_pylist() == evaluation.documents
    assert pyarrow.parquet.read_table(questions).to_pylist() == evaluation.questions


def test_the_same_model_measures_the_same_twice(model, vocabulary, texts):
    assert evaluate(model, vocabulary, texts, config(), 64) == evaluate(model, vocabulary, texts, config(), 64)


def test_text_that_is_too_little_gives_what_there_is(model, vocabulary, texts, tmp_path):
    few = type(texts)({"validation": [], "test": list(texts.documents("test", "en"))[-2:]})
    evaluation = evaluate(model, vocabulary, few, config(cloze_context=10), 64)
    assert not any(name.startswith("validation") or "cloze" in name for name in evaluation.metrics)
    assert evaluation.metrics["test/bits_per_byte/all"] == evaluation.metrics["test/bits_per_byte/en"]
    assert [path.name for path in evaluation.save(tmp_path)] == ["documents.parquet"]
