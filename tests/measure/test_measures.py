"""Requests and results of the measures on text: names, rows, and consistent numbers."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers import TINY
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.bits import BitsPerByte
from tinylm_ablate.measure.cloze import Cloze
from tinylm_ablate.measure.forgetting import Forgetting
from tinylm_ablate.measure.layer_skip import MAX_BYTES, MAX_QUESTIONS, LayerSkip
from tinylm_ablate.measure.records import stem
from tinylm_ablate.measure.registry import measures, requested
from tinylm_ablate.measure.scoring import Reader
from tinylm_ablate.measure.speed import DecodingSpeed
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

BYTES = {"max_bytes": 4000}
QUESTIONS = {"questions": 12, "context": 40, "continuation": 20}


def subject(model: Any, vocabulary: Any, texts: Any) -> Any:
    reader = Reader(model, vocabulary, 64, "cpu")
    return SimpleNamespace(decoder=model, reader=reader, corpus=texts)


def settled(*overrides: str) -> Settled:
    return settle(compose([*TINY, *overrides]))


def test_bits_per_byte_have_flat_names_and_agree_with_the_rows(model: Any, vocabulary: Any, texts: Any) -> None:
    found = BitsPerByte().measure(subject(model, vocabulary, texts), BYTES)
    metrics = found.metrics
    for split in ("validation", "test"):
        for language in ("en", "zh"):
            rows = [row for row in found.rows if row["split"] == split and row["language"] == language]
            name = f"{split}/bits_per_byte/{language}"
            assert metrics[f"{name}/documents"] == len(rows)
            assert 3997 < metrics[f"{name}/bytes"] <= 4000
            nats, size = (sum(row[key] for row in rows) for key in ("nats", "bytes"))
            assert metrics[name] == pytest.approx(nats / size / math.log(2))
            assert metrics[f"{name}/standard_error"] > 0
        assert metrics[f"{split}/bits_per_byte/all"] == pytest.approx(
            (metrics[f"{split}/bits_per_byte/en"] + metrics[f"{split}/bits_per_byte/zh"]) / 2
        )
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in metrics.values())
    assert set(found.rows[0]) == {"split", "language", "document", "nats", "bytes", "tokens"}


def test_the_cloze_has_flat_names_and_agrees_with_the_rows(model: Any, vocabulary: Any, texts: Any) -> None:
    found = Cloze().measure(subject(model, vocabulary, texts), QUESTIONS)
    for language in ("en", "zh"):
        rows = [row for row in found.rows if row["language"] == language]
        assert found.metrics[f"test/cloze/{language}/questions"] == len(rows) == 12
        assert found.metrics[f"test/cloze/{language}"] == pytest.approx(sum(row["correct"] for row in rows) / 12)
    assert found.metrics["test/cloze/all/standard_error"] > 0
    assert set(found.rows[0]) == {"split", "language", "question", "correct", "margin"}
    assert {row["split"] for row in found.rows} == {"test"}


@pytest.mark.parametrize(("measure", "settings"), [(BitsPerByte(), BYTES), (Cloze(), QUESTIONS)])
def test_the_same_model_measures_the_same_twice(
    measure: Any, settings: dict[str, int], model: Any, vocabulary: Any, texts: Any
) -> None:
    what = subject(model, vocabulary, texts)
    assert measure.measure(what, settings) == measure.measure(what, settings)


def test_too_little_text_gives_fewer_results(model: Any, vocabulary: Any, texts: Any) -> None:
    few = type(texts)({"validation": [], "test": list(texts.documents("test", "en"))[-2:]})
    what = subject(model, vocabulary, few)
    found = BitsPerByte().measure(what, BYTES)
    assert not any(name.startswith("validation") for name in found.metrics)
    assert found.metrics["test/bits_per_byte/all"] == found.metrics["test/bits_per_byte/en"]
    asked = Cloze().measure(what, QUESTIONS | {"context": 10})
    assert (asked.metrics, asked.rows) == ({}, [])


def test_a_config_requests_what_it_names() -> None:
    def names(*overrides: str) -> list[str]:
        return [request.measure.name for request in requested(settled(*overrides))]

    assert names() == ["bits_per_byte", "bigrams", "cloze"]
    assert names("evaluate.cloze_questions=0") == ["bits_per_byte", "bigrams"]
    everything = ["evaluate.decode.measure=true", "evaluate.layer_skip=1", "rounds.forgetting=true", "train.tokens=5120"]
    assert names(*everything) == ["bits_per_byte", "bigrams", "cloze", "decoding_speed", "layer_skip", "forgetting"]
    assert len({measure.name for measure in measures()}) == len(measures())


def test_the_settings_of_a_request_determine_its_numbers() -> None:
    assert BitsPerByte().requests(settled()) == [{"max_bytes": 2000}]
    assert Cloze().requests(settled("evaluate.cloze_context=77")) == [
        {"questions": 4, "context": 77, "continuation": settled().config.evaluate.cloze_continuation}
    ]
    speed = DecodingSpeed().requests(settled("evaluate.decode.measure=true"))
    assert speed[0]["threads"] == 1 and speed[0]["precision"] in {"fp32", "fp16"}
    rounds = settled("rounds.forgetting=true", "train.tokens=5120")
    assert Forgetting().requests(rounds) == [{"parts": list(rounds.rounds.parts)}]


def test_layers_are_skipped_on_less_text_and_never_all_of_them() -> None:
    large = ["evaluate.layer_skip=9", f"evaluate.max_bytes={10 * MAX_BYTES}", f"evaluate.cloze_questions={10 * MAX_QUESTIONS}"]
    (request,) = LayerSkip().requests(settled(*large))
    assert (request["layers"], request["max_bytes"], request["questions"]) == (1, MAX_BYTES, MAX_QUESTIONS)
    assert LayerSkip().requests(settled("arch.depth=1", "evaluate.layer_skip=1")) == []


def test_equal_requests_share_a_name_and_others_do_not() -> None:
    one, two = (requested(settled(f"seed={seed}")) for seed in (0, 1))
    assert [request.stem for request in one] == [request.stem for request in two]
    other = requested(settled("evaluate.max_bytes=2001"))
    assert [before.stem == after.stem for before, after in zip(one, other, strict=True)] == [False, False, True]
    assert one[0].stem == stem("bits_per_byte", {"max_bytes": 2000})


def test_requests_do_not_depend_on_what_belongs_to_training() -> None:
    run = settled()
    more = dataclasses.replace(run, learning_rate=run.learning_rate * 2, identity="another")
    assert [request.stem for request in requested(more)] == [request.stem for request in requested(run)]
