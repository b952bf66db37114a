"""Files of a run, and the records of requested measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import TINY, run
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.formats.huggingface import load_model
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.init.initial import initial_decoder
from tinylm_ablate.init.random import initialize, matrix_std
from tinylm_ablate.measure.records import read_record
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.measure.speed import METRIC, decode_speed_once, protocol
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.run import Record
from tinylm_ablate.tokenizer.vocabularies import open_vocabulary

DECODE = ["evaluate.decode.measure=true", "evaluate.decode.batch=3", "evaluate.decode.new_tokens=6"]


@pytest.fixture(scope="module")
def place(small_data: list[str], small_cache: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*TINY, *small_data, small_cache, f"runs_dir={tmp_path_factory.mktemp('run')}/runs"]


@pytest.fixture(scope="module")
def plain(place: list[str]) -> tuple[Config, Record]:
    config = compose(place)
    return config, run(config)


def test_settled_json_reads_back_as_the_run(plain: tuple[Config, Record]) -> None:
    settled = settle(plain[0])
    assert Settled.from_json((settled.folder / "settled.json").read_bytes()) == settled


def test_the_record_contains_only_results_of_training(plain: tuple[Config, Record]) -> None:
    config, record = plain
    written = json.loads((settle(config).folder / "metrics.json").read_text())
    assert written["schema"] == 2
    assert {name.split("/")[0] for name in written["metrics"]} == {"train"}
    assert written["metrics"].items() < record["metrics"].items()
    assert {key: value for key, value in written.items() if key != "metrics"} == {
        key: value for key, value in record.items() if key != "metrics"
    }


def test_the_spread_of_each_matrix_is_kept_before_and_after_training(plain: tuple[Config, Record]) -> None:
    config, record = plain
    settled = settle(config)
    rows = json.loads((settled.folder / "matrix_std.json").read_text())
    assert [(row["layer"], row["matrix"]) for row in rows[:7]] == [(0, m) for m in ("q", "k", "v", "out", "gate", "up", "down")]
    assert len(rows) == 7 * record["shape"]["depth"]
    initial = Decoder(settled.shape)
    initialize(initial, settled.init, config.seed)
    assert [row["std"] for row in rows] == [row["std"] for row in matrix_std(initial)]
    trained = [row["std"] for row in matrix_std(load_model(settled.folder / "model"))]
    assert [row["trained_std"] for row in rows] == pytest.approx(trained)
    assert trained != [row["std"] for row in rows]


def test_a_new_measure_leaves_the_run_and_its_other_records_unchanged(place: list[str], plain: tuple[Config, Record]) -> None:
    config, before = plain
    folder = settle(config).folder
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert METRIC not in before["metrics"]
    after = run(compose([*place, *DECODE]))
    assert after["metrics"].pop(METRIC) > 0
    assert after == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (speed,) = {path for path in folder.rglob("*") if path.is_file()} - stamps.keys()
    assert speed.parent == folder / "measures"
    # Without the request, the record stays but is not shown; another protocol is measured separately.
    assert run(compose(place)) == before
    run(compose([*place, *DECODE, "evaluate.decode.new_tokens=4"]))
    assert len(list((folder / "measures").glob("decoding_speed.*.json"))) == 2


def test_more_test_text_is_measured_in_addition(place: list[str], plain: tuple[Config, Record]) -> None:
    config, before = plain
    stamp = (settle(config).folder / "model" / "model.safetensors").stat().st_mtime_ns
    more = compose([*place, "evaluate.max_bytes=8000", "evaluate.cloze_questions=0"])
    after = run(more)
    assert (settle(more).folder / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    assert after["metrics"]["test/bits_per_byte/en/bytes"] > before["metrics"]["test/bits_per_byte/en/bytes"]
    assert not any("cloze" in name for name in after["metrics"])
    assert run(config) == before
    kept = [read_record(settle(config).folder, request.stem) for request in requested(settle(config))]
    assert [record["measure"] for record in kept if record] == ["bits_per_byte", "bigrams", "cloze"]


def test_seeds_share_one_measurement(place: list[str], plain: tuple[Config, Record]) -> None:
    del plain
    one, two = (run(compose([*place, *DECODE, f"seed={seed}"])) for seed in (0, 1))
    assert one["identity"] != two["identity"]
    assert one["metrics"][METRIC] == two["metrics"][METRIC]


def test_a_measurement_is_kept_by_shape_and_protocol(tmp_path: Path, plain: tuple[Config, Record]) -> None:
    config, _ = plain
    shape = settle(config).shape
    wanted = protocol(compose([*TINY, *DECODE]).evaluate.decode, "cpu", 1)
    assert wanted["precision"] == "fp32" and wanted["threads"] == 1 and wanted["machine"]
    threads = torch.get_num_threads()
    first = decode_speed_once(shape, wanted, tmp_path)
    assert torch.get_num_threads() == threads
    assert decode_speed_once(shape, wanted, tmp_path) == first > 0
    (file,) = (tmp_path / "decode").glob("*.json")
    assert json.loads(file.read_text()) == {"tokens_per_second": first, **wanted}
    decode_speed_once(shape, wanted | {"precision": "bf16"}, tmp_path)
    assert len(list((tmp_path / "decode").glob("*.json"))) == 2


def test_table_10_starts_from_the_trained_parent(place: list[str]) -> None:
    """The control arm starts with its exact weights, the grouped one with the means of its key-value heads."""
    wide = [*place, "arch.width=32", "arch.head_dim=8"]
    children = {}
    for heads in ("auto", "heads/2"):
        settled = settle(compose([*wide, "init=pool", "train.share=0.25", f"arch.kv_heads={heads}"]))
        assert settled.parent is not None
        parent = settled.parent
        run(parent.config)
        cache = Path(settled.config.cache_dir)
        corpus = open_corpus(settled.config.data, cache)
        vocabulary = open_vocabulary(settled.config.tokenizer, settled.shape.vocab_size, 0, corpus, cache)
        children[heads], _ = initial_decoder(settled, vocabulary)
    trained = load_model(parent.folder / "model")
    assert all(torch.equal(children["auto"].state_dict()[name], value) for name, value in trained.state_dict().items())
    for ours, theirs in zip(children["heads/2"].blocks, trained.blocks, strict=True):
        queries, keys, values = ours.attention.qkv.weight.split([32, 16, 16])
        rows = theirs.attention.qkv.weight.split(32)
        assert torch.equal(queries, rows[0])
        for pooled, whole in ((keys, rows[1]), (values, rows[2])):
            torch.testing.assert_close(pooled, whole.view(2, 2, 8, 32).mean(1).reshape(16, 32))
        assert torch.equal(ours.ffn.down.weight, theirs.ffn.down.weight)
    record = run(compose([*wide, "init=pool", "train.share=0.25", "arch.kv_heads=heads/2"]))
    assert (record["tokens"], record["shape"]["kv_heads"]) == (128, 2)
    assert record["init"]["method"] == "pool"


def test_missing_weights_are_reported_before_anything_is_done(place: list[str]) -> None:
    bare = compose([*place, "seed=9", "train.keep_model=false"])
    folder = settle(bare).folder
    first = run(bare)
    assert not (folder / "model").exists()
    assert run(bare) == first
    with pytest.raises(ConfigError, match=rf"train.keep_model=false: the weights of {folder} were not kept, so bits_per_byte"):
        run(compose([*place, "seed=9", "train.keep_model=false", "evaluate.max_bytes=1000"]))
    # If its weights are requested, it is trained again, with the same results.
    again = run(compose([*place, "seed=9"]))
    assert (folder / "model" / "model.safetensors").exists()
    assert again["identity"] == first["identity"]
    assert again["metrics"]["test/bits_per_byte/all"] == first["metrics"]["test/bits_per_byte/all"]
