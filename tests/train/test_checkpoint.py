"""Checkpoints are verified: any damage is reported, and no result changes."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.train.test_fit import curve, decoder_of, ignore, same, weights
from tinylm_ablate.errors import Interrupted
from tinylm_ablate.settle import Settled
from tinylm_ablate.train.checkpoint import Checkpoint, checkpoints, restore, save
from tinylm_ablate.train.fit import fit


def some(step: int) -> Checkpoint:
    weight = torch.arange(6.0).view(2, 3) + step
    records = {"curve.jsonl": f'{{"step": {step}}}\n', "events.jsonl": ""}
    state = {"seconds": 0.1 + step, "recent": [1 / 3], "norm": float("nan")}
    return Checkpoint(step, {"w": weight}, {"exp_avg": {"w": weight / 7}}, {"updates": float(step)}, state, records)


def assert_is(found: Checkpoint | None, step: int) -> None:
    assert found is not None and found.step == step
    assert torch.equal(found.weights["w"], some(step).weights["w"])
    assert torch.equal(found.kept["exp_avg"]["w"], some(step).kept["exp_avg"]["w"])
    assert found.counters == {"updates": step} and found.records == some(step).records
    assert found.recorder["recent"] == [1 / 3]


def test_the_newest_two_are_kept_and_read(tmp_path: Path) -> None:
    assert restore(tmp_path / "none") is None
    for step in (1, 2, 3):
        save(tmp_path, some(step))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000002", "step-000000003"]
    assert_is(restore(tmp_path), 3)
    assert save(tmp_path, some(3)) == checkpoints(tmp_path)[1], "it is there already"


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "curve.jsonl"]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[(bit // 8) % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "a list": lambda _: b"[]",
    "a number": lambda _: b"5",
    "null": lambda _: b"null",
    "another object": lambda _: b'{"sha256": "0", "content": {}}',
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "cut": lambda content: content[:-3],
    "deeply nested": lambda _: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damage_is_reported_and_the_one_before_is_used(file: str, damage: str, tmp_path: Path) -> None:
    save(tmp_path, some(1))
    path = save(tmp_path, some(2)) / file
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=r"step-000000002 is damaged \(.*\); the one before it is used"):
        assert_is(restore(tmp_path), 1)
    with pytest.warns(UserWarning, match="is damaged"):
        save(tmp_path, some(2))
    assert_is(restore(tmp_path), 2)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    save(tmp_path, some(1))
    (save(tmp_path, some(2)) / "events.jsonl").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        assert_is(restore(tmp_path), 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.integers(0, 2**20))
def test_every_flipped_bit_is_found(tmp_path: Path, file: str, bit: int) -> None:
    """A flipped bit that does not change the meaning of state.json, as in white space, is not damage."""
    folder = tmp_path / "checkpoints"
    if not folder.exists():
        save(folder, some(1))
    path = folder / "step-000000001" / file
    content = path.read_bytes()
    path.write_bytes(flipped(content, bit))
    try:
        if file == "state.json":
            try:
                meaning = json.dumps(json.loads(path.read_bytes())) == json.dumps(json.loads(content))
            except ValueError:
                meaning = False
        else:
            meaning = False
        if not meaning:
            with pytest.warns(UserWarning, match="is damaged"):
                assert restore(folder) is None
    finally:
        path.write_bytes(content)


def stopped(settled: Settled, tokens: np.ndarray, folder: Path) -> None:
    """Train seven of twelve steps, with a checkpoint of every step."""
    settled.config.train.checkpoint_minutes = 1e-9

    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == 7:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(decoder_of(settled), tokens, settled, folder, stop)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


CURVE_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "a broken middle line": lambda content: content[: len(content) // 2] + b"\x00{" + content[len(content) // 2 + 2 :],
    "not UTF-8": lambda content: content[:40] + b"\xff" + content[41:],
    "five": lambda _: b"5\n",
    "a lost line": lambda content: b"".join(content.splitlines(keepends=True)[1:]),
    "another number": lambda content: content.replace(b'"step": 3', b'"step": 4'),
}


@pytest.mark.parametrize("damage", [*CURVE_DAMAGES, "missing"])
def test_a_damaged_curve_is_reported_and_restored(
    damage: str, settled: Settled, tokens: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = decoder_of(settled)
    fit(expected, tokens, settled, tmp_path / "whole", ignore)
    folder = tmp_path / "parts"
    stopped(settled, tokens, folder)
    path = folder / "curve.jsonl"
    before = lines_of(path)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(CURVE_DAMAGES[damage](path.read_bytes()))
    decoder = decoder_of(settled)
    fit(decoder, tokens, settled, folder, ignore)
    assert "curve.jsonl is damaged; it is restored from the checkpoint of step 7" in capsys.readouterr().err
    assert lines_of(path)[:7] == before
    assert curve(folder) == curve(tmp_path / "whole")
    assert same(weights(decoder), weights(expected))


def test_rows_of_steps_that_were_lost_disappear(
    settled: Settled, tokens: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = decoder_of(settled)
    fit(expected, tokens, settled, tmp_path / "whole", ignore)
    folder = tmp_path / "parts"
    stopped(settled, tokens, folder)
    shutil.rmtree(checkpoints(folder / "checkpoint")[-1])
    with (folder / "curve.jsonl").open("a") as stream:
        stream.write('{"step": 8, "lo')
    decoder = decoder_of(settled)
    fit(decoder, tokens, settled, folder, ignore)
    assert "damaged" not in capsys.readouterr().err
    assert curve(folder) == curve(tmp_path / "whole") and same(weights(decoder), weights(expected))
    shutil.rmtree(folder / "checkpoint")
    decoder = decoder_of(settled)
    fit(decoder, tokens, settled, folder, ignore)
    assert curve(folder) == curve(tmp_path / "whole"), "without a checkpoint the run begins again, and so does its curve"
