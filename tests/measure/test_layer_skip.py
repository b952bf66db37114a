"""Layers skipped at inference: results, and conditions of measurement."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers import TINY, run
from tests.measure.conftest import random_decoder
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.bits import BitsPerByte
from tinylm_ablate.measure.cloze import Cloze
from tinylm_ablate.measure.layer_skip import layer_skip, summary
from tinylm_ablate.measure.records import read_rows
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.measure.scoring import Reader
from tinylm_ablate.settle import settle


def wanted(**changes: int) -> dict[str, int]:
    return {"layers": 2, "max_bytes": 3000, "questions": 8, "context": 40, "continuation": 20, **changes}


@pytest.fixture(scope="module")
def deep(vocabulary: Any) -> Decoder:
    """Four layers, of which the third has no effect."""
    decoder = random_decoder(4, vocabulary)
    with torch.no_grad():
        decoder.blocks[2].attention.out.weight.zero_()
        decoder.blocks[2].ffn.down.weight.zero_()
    return decoder


def test_every_position_is_measured_as_the_model_without_its_layers(deep: Decoder, vocabulary: Any, texts: Any) -> None:
    rows = layer_skip(Reader(deep, vocabulary, 64, "cpu"), texts, wanted())
    assert [(row["skipped"], row["first"]) for row in rows] == [
        (0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip
    for row in rows:
        kept = [layer for layer in range(4) if not row["first"] <= layer < row["first"] + row["skipped"]]
        shorter = Decoder(
            Shape(depth=len(kept), width=32, ffn_width=48, heads=4, kv_heads=2, head_dim=8, vocab_size=vocabulary.size)
        )
        for module in ("embedding", "norm", "head"):
            getattr(shorter, module).load_state_dict(getattr(deep, module).state_dict())
        for new, old in enumerate(kept):
            shorter.blocks[new].load_state_dict(deep.blocks[old].state_dict())
        subject: Any = SimpleNamespace(decoder=shorter, reader=Reader(shorter, vocabulary, 64, "cpu"), corpus=texts)
        bits = BitsPerByte().measure(subject, {"max_bytes": 3000})
        assert row["bits_per_byte"] == pytest.approx(bits.metrics["validation/bits_per_byte/all"], rel=1e-6)
        assert row["cloze"] == Cloze().measure(subject, wanted()).metrics["test/cloze/all"]
        validation = [document for document in bits.rows if document["split"] == "validation"]
        nats, tokens = (sum(document[key] for document in validation) for key in ("nats", "tokens"))
        assert row["loss"] == pytest.approx(nats / tokens, rel=1e-6)
    by_place = {(row["skipped"], row["first"]): row for row in rows}
    assert by_place[1, 2]["bits_per_byte"] == by_place[0, 0]["bits_per_byte"] != by_place[1, 1]["bits_per_byte"]


def test_at_least_one_layer_is_kept_and_questions_are_optional(deep: Decoder, vocabulary: Any, texts: Any) -> None:
    rows = layer_skip(Reader(deep, vocabulary, 64, "cpu"), texts, wanted(layers=9, questions=0, max_bytes=200))
    assert max(row["skipped"] for row in rows) == 3
    assert all(row["cloze"] is None for row in rows)


def test_rows_are_summarized() -> None:
    rows = [
        {"skipped": count, "first": first, "loss": 3.0, "bits_per_byte": bits, "cloze": None}
        for count, first, bits in ((0, 0, 1.0), (1, 0, 2.0), (1, 1, 1.1), (1, 2, 1.4))
    ]
    assert summary(rows) == {
        "layer_skip/1/bits_per_byte/least": 1.1,
        "layer_skip/1/bits_per_byte/most": 2.0,
        "layer_skip/1/cheapest": 1,
    }


def test_a_finished_run_is_measured_without_being_trained_again(
    small_data: list[str], small_cache: str, tmp_path: Path
) -> None:
    place = [*TINY, *small_data, small_cache, "arch.depth=3", f"runs_dir={tmp_path}/runs"]
    before = run(compose(place))
    folder = settle(compose(place)).folder
    trained = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    skipping = compose([*place, "evaluate.layer_skip=1"])
    after = run(skipping)
    assert after["identity"] == before["identity"]
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == trained
    request = requested(settle(skipping))[-1]
    rows = read_rows(folder, request.stem)
    assert [(row["skipped"], row["first"]) for row in rows] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert rows[0]["bits_per_byte"] == pytest.approx(before["metrics"]["validation/bits_per_byte/all"], rel=1e-6)
    assert rows[0]["cloze"] == before["metrics"]["test/cloze/all"]
    added = after["metrics"].keys() - before["metrics"].keys()
    assert added == summary(rows).keys() and len(added) == 3
    # Requested again, nothing is measured; requested for more layers, they are.
    file = folder / "measures" / f"{request.stem}.json"
    stamp = file.stat().st_mtime_ns
    assert run(skipping) == after and run(compose(place)) == before
    assert file.stat().st_mtime_ns == stamp
    assert "layer_skip/2/cheapest" in run(compose([*place, "evaluate.layer_skip=2"]))["metrics"]
    # A new run may request it even if its weights are not kept; later, they are missing.
    other = [*place, "seed=5", "train.keep_model=false"]
    assert "layer_skip/1/cheapest" in run(compose([*other, "evaluate.layer_skip=1"]))["metrics"]
    with pytest.raises(ConfigError, match=r"the weights of .* were not kept, so layer_skip cannot be measured"):
        run(compose([*other, "evaluate.layer_skip=2"]))
