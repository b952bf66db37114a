"""What a run keeps beside its weights: the spread of each matrix, and the speed of generation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import TINY
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.measure.speed import METRIC, decode_speed_once, protocol
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.init.build import initial_decoder
from tinylm_ablate.formats.huggingface import load_model
from tinylm_ablate.init.random import initialise, matrix_std
from tinylm_ablate.run import Record, finished, run
from tinylm_ablate.settle import settle
from tinylm_ablate.tokenizer.build import open_vocabulary

DECODE = ["evaluate.decode.measure=true", "evaluate.decode.batch=3", "evaluate.decode.new_tokens=6"]


@pytest.fixture(scope="module")
def place(small_data: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("run")
    return [*TINY, *small_data, f"runs_dir={folder}/runs", f"cache_dir={folder}/cache"]


@pytest.fixture(scope="module")
def plain(place: list[str]) -> tuple[Config, Record]:
    config = compose(place)
    return config, run(config)


def test_the_spread_of_each_matrix_is_kept_before_and_after_training(plain: tuple[Config, Record]) -> None:
    config, record = plain
    settled = settle(config)
    rows = json.loads((settled.folder / "matrix_std.json").read_text())
    assert [(row["layer"], row["matrix"]) for row in rows[:7]] == [(0, m) for m in ("q", "k", "v", "out", "gate", "up", "down")]
    assert len(rows) == 7 * record["shape"]["depth"]
    initial = Decoder(settled.shape)
    initialise(initial, config.init, config.seed)
    assert [row["std"] for row in rows] == [row["std"] for row in matrix_std(initial)]
    trained = [row["std"] for row in matrix_std(load_model(settled.folder / "model"))]
    assert [row["trained_std"] for row in rows] == pytest.approx(trained)
    assert trained != [row["std"] for row in rows]


def test_speed_is_added_to_a_finished_run_and_changes_nothing_else(place: list[str], plain: tuple[Config, Record]) -> None:
    _, before = plain
    assert METRIC not in before["metrics"] and "decode" not in before
    after = run(compose([*place, *DECODE]))
    assert after["identity"] == before["identity"]
    assert after["metrics"][METRIC] > 0
    assert after["decode"]["batch"] == 3 and after["decode"]["new_tokens"] == 6
    assert {key: value for key, value in after["metrics"].items() if key != METRIC} == before["metrics"]
    assert {key: value for key, value in after.items() if key not in {"metrics", "decode"}} == {
        key: value for key, value in before.items() if key != "metrics"
    }
    kept = finished(settle(compose(place)).folder)
    assert kept == json.loads(json.dumps(after))
    # Asked without it, the record keeps it; asked by another protocol, it is measured by that.
    assert run(compose(place)) == kept
    other = run(compose([*place, *DECODE, "evaluate.decode.new_tokens=4"]))
    assert other["decode"]["new_tokens"] == 4


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
    """The control arm from its very weights, the grouped one from the means of its key-value heads."""
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


def test_a_run_without_weights_is_done_again_when_they_are_wanted(place: list[str]) -> None:
    bare = compose([*place, "seed=9", "train.keep_model=false"])
    folder = settle(bare).folder
    first = run(bare)
    assert not (folder / "model").exists()
    assert run(bare) == first
    again = run(compose([*place, "seed=9"]))
    assert (folder / "model" / "model.safetensors").exists()
    assert again["identity"] == first["identity"]
    assert again["metrics"]["test/bits_per_byte/all"] == first["metrics"]["test/bits_per_byte/all"]
