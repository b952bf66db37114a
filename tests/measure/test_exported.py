"""Exported models: the cost of quantization, and their results in llama.cpp."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from tests.helpers import TINY, run
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.formats.huggingface import Model
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.llama_speed import _llama_cpp, _own
from tinylm_ablate.measure.quantized import QuantizedBitsPerByte
from tinylm_ablate.measure.records import read_rows
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.measure.speed import _once
from tinylm_ablate.settle import settle

#: A width at which the rows of every matrix are multiples of 32.
WIDE = ["arch.width=32", "arch.ffn_width=64", "arch.head_dim=16", "evaluate.quantized=[q8_0,q4_0]"]


def test_bits_per_byte_of_the_exported_model(small_data: list[str], tmp_path: Path) -> None:
    config = compose([*small_data, *TINY, *WIDE, f"runs_dir={tmp_path}/runs"])
    metrics, settled = run(config)["metrics"], settle(config)
    itself = metrics["test/bits_per_byte/all"]
    for kind in ("q8_0", "q4_0"):
        added = metrics[f"quantized/{kind}/added/all"]
        assert metrics[f"quantized/{kind}/bits_per_byte/all"] == pytest.approx(itself + added)
        assert metrics[f"quantized/{kind}/added/all/standard_error"] > 0
    assert abs(metrics["quantized/q8_0/added/all"]) < abs(metrics["quantized/q4_0/added/all"]) < 0.1 * itself
    assert 0.99 < metrics["quantized/q4_0/share"] < 1  # all but the norms
    assert metrics["quantized/q4_0/bytes"] < metrics["quantized/q8_0/bytes"]
    requests = [request for request in requested(settled) if isinstance(request.measure, QuantizedBitsPerByte)]
    rows = read_rows(settled.folder, requests[1].stem)
    nats, before, size = (sum(row[key] for row in rows if row["language"] == "en") for key in ("nats", "nats_itself", "bytes"))
    assert metrics["quantized/q4_0/added/en"] == pytest.approx((nats - before) / size / math.log(2))
    assert not [path for path in settled.cache.iterdir() if path.name.startswith(".exported")]


def test_blocks_that_are_not_exported_are_refused(small_data: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.quantized=\[q8_0\]: arch\.activations=2.* not exported"):
        settle(compose([*small_data, *TINY, "arch.activations=2", "evaluate.quantized=[q8_0]"]))
    with pytest.raises(ConfigError, match=r"evaluate\.quantized=\['q5_0'\]: allowed: a list of f16, q8_0, q4_0"):
        settle(compose([*small_data, *TINY, "evaluate.quantized=[q5_0]"]))


def test_a_missing_package_is_named_before_anything_is_spent(small_data: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settled = settle(compose([*small_data, *TINY, "evaluate.decode.llama_cpp=[q8_0]"]))
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "llama_cpp" else find(name))
    with pytest.raises(UserError, match=r"evaluate\.decode\.llama_cpp: .*pip install 'tinylm-ablate\[llama-cpp\]'"):
        requested(settled)


def test_llama_cpp_continues_as_our_decoder_does(model: Any, vocabulary: Any, tmp_path: Path) -> None:
    """The same greedy tokens from an exported file in single precision, read by another program."""
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    from tinylm_ablate.formats.gguf_export import export_gguf
    from tinylm_ablate.formats.huggingface import save

    vocabulary.tokenizer.save(str(tmp_path / "tokenizer.json"))
    exported = Model(model.state_dict(), model.shape, tmp_path / "tokenizer.json", 64, vocabulary.end_of_text)
    save(tmp_path / "model", exported)
    export_gguf(tmp_path / "model.gguf", exported, "f32")
    ours = _own(tmp_path / "model", 2, 2, 1)(12)
    theirs = _llama_cpp(tmp_path / "model.gguf", 2, 2, 12, 1, False)
    assert theirs(12) == ours
    assert theirs(12) == ours  # with an empty cache


def test_speed_and_memory_are_measured_next_to_ours(small_data: list[str], tmp_path: Path) -> None:
    """Each kind is measured once per shape and machine, whatever other kinds a grid requests."""
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    decode = ["evaluate.decode.batch=2", "evaluate.decode.new_tokens=8", "evaluate.decode.repeats=1"]
    shared = [*small_data, *TINY, *WIDE[:3], *decode, f"runs_dir={tmp_path}/runs"]
    one = compose([*shared, "evaluate.decode.llama_cpp=[q8_0]"])
    first = run(one)["metrics"]
    for place in ("decode/own", "decode/llama_cpp/q8_0"):
        assert first[f"{place}/tokens_per_second"] > 0
        assert first[f"{place}/memory"] > 1e5
    stamps = {path: path.stat().st_mtime_ns for path in (settle(one).cache / "decode").glob("*.json")}
    run(compose([*shared, "evaluate.decode.llama_cpp=[q8_0]", "seed=1"]))
    both = run(compose([*shared, "evaluate.decode.llama_cpp=[q8_0,f16]"]))["metrics"]
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert both["decode/llama_cpp/f16/tokens_per_second"] > 0
    records = read_runs(settle(one).folder.parent)
    assert not records.problems
    row = records.runs.set_index("identity").loc[settle(one).identity]
    speeds = {name: value for name, value in both.items() if name.startswith("decode/")}
    assert len(speeds) == 6 and {name: row[name] for name in speeds} == speeds


def test_a_kept_measurement_may_have_no_memory_and_must_have_a_speed(tmp_path: Path) -> None:
    """Memory is the growth of a process and may be zero; a file without a speed is damaged, and measured again."""
    made: list[float] = []

    def measured(speed: float) -> dict[str, float]:
        def measure() -> dict[str, float]:
            made.append(speed)
            return {"tokens_per_second": speed, "memory": 0.0}

        return _once(settle(compose(TINY)).shape, {"weights": "q8_0"}, tmp_path, measure)

    assert measured(5.0) == measured(6.0) == {"tokens_per_second": 5.0, "memory": 0.0} and made == [5.0]
    (path,) = (tmp_path / "decode").glob("*.json")
    path.write_text('{"memory": 7, "weights": "q8_0"}')
    assert measured(8.0)["tokens_per_second"] == 8.0
