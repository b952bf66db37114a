"""Training: what it computes, what stops it, and that a run that resumes equals the run that never stopped."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers import TINY
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.errors import Interrupted, RunFailed
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.init.random import initialize
from tinylm_ablate.optimizer.schedule import factor, warmup_steps
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.fit import fit


def ignore(rows: list[dict[str, float]]) -> None:
    del rows


def decoder_of(settled: Settled) -> Decoder:
    decoder = Decoder(settled.shape)
    initialize(decoder, settled.init, settled.config.seed)
    return decoder


def weights(decoder: Decoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in decoder.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def curve(folder: Path) -> list[tuple[float, float, float]]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["learning_rate"]) for row in rows]


def test_steps_are_those_of_a_plain_loop(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    """Compare with AdamW, clipping, accumulation and schedule written by hand."""
    trained = decoder_of(settled)
    fit(trained, tokens, settled, tmp_path, ignore)

    plain, config = decoder_of(settled), settled.config.optimizer
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settled.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    batches = Batches(tokens, 32, settled.config.seed, round=0)
    warmup = warmup_steps(config, settled.steps, settled.config.train.batch_tokens)
    for step in range(settled.steps):
        for group in optimizer.param_groups:
            group["lr"] = settled.learning_rate * factor(config, step, settled.steps, warmup)
        batch = torch.from_numpy(batches.inputs(np.arange(4 * step, 4 * step + 4)))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_it_learns(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    longer = dataclasses.replace(settled, steps=60, tokens=60 * 128)
    result = fit(decoder_of(longer), tokens, longer, tmp_path, ignore)
    losses = [loss for _, loss, _ in curve(tmp_path)]
    assert len(losses) == 60
    assert result.loss < losses[0] - 0.5
    assert result.tokens_per_second > 0


@pytest.mark.parametrize("stop_at", [1, 5, 11, 12])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(settled: Settled, tokens: np.ndarray, tmp_path: Path, stop_at: int) -> None:
    whole = decoder_of(settled)
    fit(whole, tokens, settled, tmp_path / "whole", ignore)

    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == stop_at:
            for _ in range(2):  # a second one changes nothing
                signal.raise_signal(signal.SIGTERM)

    folder = tmp_path / "parts"
    with pytest.raises(Interrupted, match=rf"stopped at step {stop_at} of 12; saved in .*same command resumes"):
        fit(decoder_of(settled), tokens, settled, folder, stop)
    parts = decoder_of(settled)
    fit(parts, tokens, settled, folder, ignore)
    assert same(weights(whole), weights(parts))
    assert curve(folder) == curve(tmp_path / "whole")


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    settled: Settled, tokens: np.ndarray, tmp_path: Path
) -> None:
    whole = decoder_of(settled)
    fit(whole, tokens, settled, tmp_path / "whole", ignore)
    folder = tmp_path / "parts"
    settled.config.train.checkpoint_minutes = 1e-9  # after every step

    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(decoder_of(settled), tokens, settled, folder, stop)
    kept = sorted((folder / "checkpoint").iterdir())
    assert [path.name for path in kept] == ["step-000000005", "step-000000006"]
    with (kept[-1] / "model.safetensors").open("r+b") as stream:
        stream.seek(-8, 2)
        stream.write(b"\xff" * 8)
    parts = decoder_of(settled)
    with pytest.warns(UserWarning, match=r"step-000000006 is damaged .*the one before it is used"):
        fit(parts, tokens, settled, folder, ignore)
    assert same(weights(whole), weights(parts))
    assert curve(folder) == curve(tmp_path / "whole")


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    decoder = decoder_of(settled)
    moved: list[dict[str, Tensor]] = []
    loss, calls = decoder.loss, 0

    def breaking(*arguments: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:  # the second micro batch of step 4
            moved.append(weights(decoder))
            return loss(*arguments) * float("nan")
        return loss(*arguments)

    decoder.loss = breaking  # type: ignore[method-assign, assignment]
    with pytest.raises(RunFailed, match=r"step 4 of 12: loss nan, .*micro batch 7; the weights were not changed"):
        fit(decoder, tokens, settled, tmp_path, ignore)
    assert same(moved[0], weights(decoder))


def test_compiled_layers_compute_the_same(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    short = dataclasses.replace(settled, steps=2, tokens=256)
    plain, quick = decoder_of(short), decoder_of(short)
    # Adam divides gradients by their own size, so rounding of the smallest ones would be as large as an update.
    short.config.optimizer.eps = 1e-4
    fit(plain, tokens, short, tmp_path / "plain", ignore)
    short.config.train.compile = True
    fit(quick, tokens, short, tmp_path / "quick", ignore)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(quick.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_can_be_skipped(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    settled.config.train.on_nonfinite = "skip"
    decoder = decoder_of(settled)
    seen: list[dict[str, Tensor]] = []
    loss, calls = decoder.loss, 0

    def breaking(*arguments: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls in (8, 9):  # the end of step 4, and the beginning of step 5 after a skipped update
            seen.append(weights(decoder))
        return loss(*arguments) * (float("nan") if calls == 8 else 1.0)

    decoder.loss = breaking  # type: ignore[method-assign, assignment]
    trained = fit(decoder, tokens, settled, tmp_path, ignore)
    assert same(*seen)
    assert trained.skipped == 1
    assert [step for step, _, _ in curve(tmp_path)] == [1, 2, 3, *range(5, 13)]
    (event,) = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["step"], event["batch"]) == ("skipped", 4, 3)
    assert len(event["sequences"]) == 4


def test_a_spike_is_logged_with_its_batch(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    longer = dataclasses.replace(settled, steps=40, tokens=40 * 128)
    decoder = decoder_of(longer)
    loss, calls = decoder.loss, 0

    def spiking(*arguments: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return loss(*arguments) * (20.0 if calls in (59, 60) else 1.0)

    decoder.loss = spiking  # type: ignore[method-assign, assignment]
    fit(decoder, tokens, longer, tmp_path, ignore)
    first = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])
    assert (first["event"], first["step"], first["batch"]) == ("spike", 30, 29)
    batches = Batches(tokens, 32, settled.config.seed, round=0)
    assert first["sequences"] == batches.windows(np.arange(4 * 29, 4 * 30)).tolist()


@pytest.mark.parametrize("name", ["lion", "muon", "schedule_free"])
def test_every_optimizer_learns_and_resumes_bit_for_bit(name: str, tokens: np.ndarray, tmp_path: Path) -> None:
    overrides = [
        *TINY,
        f"optimizer={name}",
        "optimizer.scaling.base_lr=0.02",
        "train.tokens=3840",
        "train.log_every=1",
        f"runs_dir={tmp_path}",
    ]
    settled = settle(compose(overrides))
    whole = decoder_of(settled)
    trained = fit(whole, tokens, settled, tmp_path / "whole", ignore)
    assert trained.loss < curve(tmp_path / "whole")[0][1] - 0.05

    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == 13:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(decoder_of(settled), tokens, settled, tmp_path / "parts", stop)
    parts = decoder_of(settled)
    fit(parts, tokens, settled, tmp_path / "parts", ignore)
    assert same(weights(whole), weights(parts))
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def other(settled: Settled, *overrides: str) -> Settled:
    """The same run with other settings."""
    runs_dir = settled.config.runs_dir
    return settle(
        compose([*TINY, f"runs_dir={runs_dir}", "train.tokens=1536", "train.micro_batch=2", "train.log_every=1", *overrides])
    )


def test_recomputed_activations_change_nothing(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    plain, recomputed = decoder_of(settled), decoder_of(settled)
    fit(plain, tokens, settled, tmp_path / "plain", ignore)
    again = other(settled, "train.recompute=true")
    assert again.identity == settled.identity
    fit(recomputed, tokens, again, tmp_path / "recomputed", ignore)
    assert same(weights(plain), weights(recomputed))


def test_everything_in_bf16(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    """Weights and moments are bf16 in the checkpoint, and training equals fp32 except for rounding."""
    half = other(settled, "train.precision=bf16-true")
    assert half.identity != settled.identity
    found = fit(rounded := decoder_of(half), tokens, half, tmp_path / "half", ignore)
    expected = fit(decoder_of(settled), tokens, settled, tmp_path / "plain", ignore)
    assert found.loss == pytest.approx(expected.loss, rel=0.02)
    for name, value in weights(rounded).items():
        assert value.dtype == torch.float32 and torch.equal(value, value.bfloat16().float()), name
    (folder,) = (tmp_path / "half" / "checkpoint").glob("step-*")
    for file in ("model", "optimizer"):
        tensors = load_file(folder / f"{file}.safetensors")
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values() if tensor.ndim)
