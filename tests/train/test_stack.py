"""Runs that train together compared with the same runs alone: results, isolation, and resuming."""

from __future__ import annotations

import contextlib
import json
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import TINY
from tests.train.test_fit import curve, decoder_of, ignore, same, weights
from tinylm_ablate.arch import runs as runs_module
from tinylm_ablate.errors import Interrupted, Pruned, RunFailed
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import Settled, settle
from tinylm_ablate.train import stack as stack_module
from tinylm_ablate.train.fit import fit
from tinylm_ablate.train.member import Member, OnRows, Start, Trained
from tinylm_ablate.train.program import Program
from tinylm_ablate.train.stack import train_stack
from tinylm_ablate.train.stack_key import stack_key, stack_size

STEPS = 20  # more than one pass over the text
BASE = [*TINY, "train.micro_batch=2", "train.log_every=10", "train.precision=fp32"]

#: Overrides of one run that another does not have, by what differs.
DIFFERENCES = {
    "nothing": [],
    "seed and order of data": ["seed=7"],
    "learning rate": ["optimizer.scaling.multiplier=3"],
    "schedule": ["optimizer.schedule=wsd", "optimizer.warmup=0.2"],
    "decay": ["optimizer.weight_decay=0.5"],
    "decay of vectors": ["optimizer.decay=all"],
    "betas and epsilon": ["optimizer.beta1=0.8", "optimizer.beta2=0.99", "optimizer.eps=1e-6"],
    "clip": ["optimizer.clip=0.3"],
    "what a loss that is not finite does": ["train.on_nonfinite=skip"],
}


def run(tmp_path: Path, *overrides: str, steps: int = STEPS) -> Settled:
    return settle(compose([*BASE, f"runs_dir={tmp_path}/runs", f"train.tokens={128 * steps}", *overrides]))


def member(settled: Settled, tokens: np.ndarray, folder: Path, on_rows: OnRows = ignore, start: Start | None = None) -> Member:
    return Member(decoder_of(settled), tokens, settled, folder, on_rows, start or Start())


def alone(member: Member, folder: Path) -> Member:
    """The same run, trained alone in another folder."""
    single = Member(decoder_of(member.settled), member.tokens, member.settled, folder, member.on_rows, member.start)
    single.decoder.load_state_dict(member.decoder.state_dict())
    fit(single.decoder, single.tokens, single.settled, folder, single.on_rows, single.start)
    return single


def assert_equal(found: Member, expected: Member) -> None:
    """Bit-identical: weights that differ by a rounding error diverge, above all those of rare tokens under AdamW."""
    assert same(weights(found.decoder), weights(expected.decoder))
    assert curve(found.folder) == curve(expected.folder) != []


def assert_as_alone(members: list[Member], tmp_path: Path) -> None:
    """Train the runs alone, then together, and compare."""
    expected = [alone(each, tmp_path / "alone" / str(index)) for index, each in enumerate(members)]
    outcomes = train_stack(members)
    for found, one, outcome in zip(members, expected, outcomes, strict=True):
        assert isinstance(outcome, Trained) and outcome.runs == len(members), outcome
        assert_equal(found, one)


def test_a_run_in_a_stack_is_the_run_alone(tokens: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that differ in everything that may differ within a stack, and two equal ones."""
    blocks_of(5, monkeypatch)
    runs = [run(tmp_path), *(run(tmp_path, *difference) for difference in DIFFERENCES.values())]
    assert len({stack_key(each) for each in runs}) == 1
    assert_as_alone([member(each, tokens, tmp_path / str(index)) for index, each in enumerate(runs)], tmp_path)


@pytest.mark.parametrize("name", ["lion", "muon", "schedule_free"])
def test_with_every_optimizer(name: str, tokens: np.ndarray, tmp_path: Path) -> None:
    pair = [run(tmp_path, f"optimizer={name}", more) for more in ("seed=0", "optimizer.scaling.multiplier=0.3")]
    assert_as_alone([member(each, tokens, tmp_path / str(index)) for index, each in enumerate(pair)], tmp_path)


def test_texts_and_initial_weights_may_differ(tokens: np.ndarray, tmp_path: Path) -> None:
    settled = run(tmp_path)
    others = np.random.default_rng(5).permutation(tokens)[:1500]
    members = [member(settled, text, tmp_path / str(index)) for index, text in enumerate((tokens, others))]
    with torch.no_grad():
        for parameter in members[1].decoder.parameters():
            parameter.mul_(1.5)
    assert_as_alone(members, tmp_path)


@pytest.mark.parametrize("schedule", ["rewarm", "continue", "constant"])
def test_batches_of_a_second_round(schedule: str, tokens: np.ndarray, tmp_path: Path) -> None:
    """Two runs whose second rounds draw different batches and, if they continue it, use the optimizer of the first."""
    second = run(tmp_path, "rounds=two", f"rounds.schedule={schedule}", "rounds.parts=2", steps=20)
    first = second.previous
    assert first is not None
    before = member(first, tokens, tmp_path / "first")
    fit(before.decoder, tokens, first, before.folder, ignore)
    text = (before.folder / "curve.jsonl").read_text()
    kept = before.folder / "checkpoint" if first.keep_state else None
    members = []
    for index in range(2):
        drawn = np.random.default_rng(index).permutation(20)[: second.rounds.later]
        start = Start(seconds=3.0, order=drawn, checkpoints=kept, curve=text)
        members.append(member(second, tokens, tmp_path / str(index), start=start))
        members[-1].decoder.load_state_dict(before.decoder.state_dict())
    assert_as_alone(members, tmp_path)
    assert [row[0] for row in curve(members[0].folder)] == [10, 20, 30]


def test_shapes_with_everything(tokens: np.ndarray, tmp_path: Path) -> None:
    """PanGu-pi's blocks, grouped heads, a tied head, and recomputed activations."""
    shape = ["arch.activations=2", "arch.shortcuts=1", "arch.shortcut_ratio=4", "arch.kv_heads=1", "arch.tied=true"]
    pair = [run(tmp_path, *shape, "train.recompute=true", f"seed={seed}", steps=10) for seed in range(2)]
    assert_as_alone([member(each, tokens, tmp_path / str(index)) for index, each in enumerate(pair)], tmp_path)


def test_weights_in_bf16(tokens: np.ndarray, tmp_path: Path) -> None:
    pair = [run(tmp_path, "train.precision=bf16-true", f"seed={seed}", steps=20) for seed in range(2)]
    members = [member(each, tokens, tmp_path / str(index)) for index, each in enumerate(pair)]
    assert_as_alone(members, tmp_path)
    assert all(value.dtype == torch.float32 for value in weights(members[0].decoder).values())


@pytest.fixture(autouse=True)
def one_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the runs after each step, so that tests can say at which one they stop."""
    blocks_of(1, monkeypatch)


def blocks_of(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "_BLOCK", steps)
    monkeypatch.setattr(stack_module, "_BLOCK_SECONDS", 3600.0)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "schedule_free"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-true"])
def test_all_runs_at_once_as_on_a_gpu(
    name: str, precision: str, tokens: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's products, updates and blocks on a CPU: they round differently, so losses are compared."""
    # At the dial's rate for such a small shape, AdamW magnifies rounding beyond any useful bound.
    overrides = [f"optimizer={name}", f"train.precision={precision}", "optimizer.scaling.base_lr=0.0032", "train.log_every=5"]
    pair = [run(tmp_path, *overrides, more, steps=10) for more in ("seed=0", "optimizer.scaling.multiplier=2")]
    members = [member(each, tokens, tmp_path / str(index)) for index, each in enumerate(pair)]
    expected = [alone(each, tmp_path / "alone" / str(index)) for index, each in enumerate(members)]
    monkeypatch.setattr(runs_module, "_ONE_BY_ONE", set())
    blocks_of(2, monkeypatch)
    members[0].on_rows = stop_at(5)
    assert all(isinstance(outcome, Interrupted) for outcome in train_stack(members))
    members[0].on_rows = ignore
    assert all(isinstance(outcome, Trained) for outcome in train_stack(members))
    for found, one in zip(members, expected, strict=True):
        np.testing.assert_allclose(curve(found.folder), curve(one.folder), rtol=1e-4 if precision == "fp32" else 0.02)
        close = {"rtol": 0, "atol": 1e-4} if precision == "fp32" else {"rtol": 0.1, "atol": 0.05}
        for key, value in weights(one.decoder).items():
            torch.testing.assert_close(weights(found.decoder)[key], value, **close, msg=key)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "schedule_free"])
@pytest.mark.parametrize("runs", [1, 3])
def test_a_step_needs_nothing_from_the_host(name: str, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without values, where reading one fails, and would also prevent capturing a graph."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # this device has none
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    settled = [run(tmp_path, f"optimizer={name}", f"seed={seed}") for seed in range(runs)]
    weights = [{name: value.to("meta") for name, value in decoder_of(each).named_parameters()} for each in settled]
    program = Program(settled, weights, "meta", block=4, compiles=False)
    program._step()
    assert program.losses.shape == (4, 2, runs) and program.norms.is_meta
    with pytest.raises(NotImplementedError):
        program.finish_block(1)


def test_gradients_of_a_micro_batch_are_freed_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled = run(tmp_path)
    program = Program([settled], [dict(decoder_of(settled).named_parameters())], "cpu", block=1, compiles=False)
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    grad, step = torch.autograd.grad, program.optimizer.step

    def count() -> None:
        alive.append(sum(each() is not None for each in made))

    def remembering(*arguments: Any) -> tuple[torch.Tensor, ...]:
        count()
        slopes = grad(*arguments)
        made.extend(map(weakref.ref, slopes))
        return slopes

    def counting(*arguments: Any) -> torch.Tensor:
        count()
        return step(*arguments)

    monkeypatch.setattr(torch.autograd, "grad", remembering)
    monkeypatch.setattr(program.optimizer, "step", counting)
    program._step()
    assert len(made) == 2 * len(program.parameters) and alive == [0, 0, 0]


def three(tmp_path: Path, tokens: np.ndarray, name: str, middle: OnRows = ignore, *overrides: str) -> list[Member]:
    """Three runs that log every step; a fault affects the middle one."""
    settled = [run(tmp_path, "train.log_every=1", f"seed={seed}", *overrides, steps=12) for seed in range(3)]
    return [
        member(each, tokens, tmp_path / name / str(index), middle if index == 1 else ignore)
        for index, each in enumerate(settled)
    ]


@pytest.fixture(scope="module")
def expected(tokens: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """The three runs without a fault."""
    members = three(tmp_path_factory.mktemp("expected"), tokens, "undisturbed")
    assert all(isinstance(outcome, Trained) for outcome in train_stack(members))
    return members


def assert_others_equal(members: list[Member], expected: list[Member]) -> None:
    for index in (0, 2):
        assert same(weights(members[index].decoder), weights(expected[index].decoder))
        assert curve(members[index].folder) == curve(expected[index].folder)


def test_a_run_that_is_pruned_leaves_and_resumes_alone(expected: list[Member], tokens: np.ndarray, tmp_path: Path) -> None:
    members = three(tmp_path, tokens, "pruned", lambda rows: rows[-1]["step"] == 5)
    first, pruned, last = train_stack(members)
    assert isinstance(first, Trained) and isinstance(last, Trained)
    assert isinstance(pruned, Pruned) and "pruned at step 5 of 12; saved in" in str(pruned)
    assert_others_equal(members, expected)
    members[1].on_rows = ignore
    fit(members[1].decoder, tokens, members[1].settled, members[1].folder, ignore)
    assert_equal(members[1], expected[1])


RUNNING: list[stack_module._Stack] = []
SPOILED: dict[str, torch.Tensor] = {}


def spoil_at(step: int) -> OnRows:
    """Set a weight of the middle run to a non-finite value at a step: the next loss is NaN."""

    def spoil(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == step:
            (running,) = RUNNING
            running.program.views["norm.weight"][1, 0] = float("nan")
            SPOILED.update({name: value.clone() for name, value in running.program.weights_of(1).items()})

    return spoil


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tests the running stack, so that they can inject a fault."""
    first = stack_module._Stack.__init__

    def remember(self: stack_module._Stack, *arguments: Any) -> None:
        first(self, *arguments)
        RUNNING[:] = [self]

    monkeypatch.setattr(stack_module._Stack, "__init__", remember)


@pytest.mark.usefixtures("running")
def test_a_loss_that_is_not_finite_stops_its_run_alone_before_the_weights_move(
    expected: list[Member], tokens: np.ndarray, tmp_path: Path
) -> None:
    members = three(tmp_path, tokens, "broken", spoil_at(4))
    _, failed, _ = train_stack(members)
    assert isinstance(failed, RunFailed)
    assert "step 5 of 12: loss nan, gradient norm nan in micro batch 8; the weights were not changed" in str(failed)
    assert_others_equal(members, expected)
    frozen = RUNNING[0].program.weights_of(1)
    assert all(torch.equal(frozen[name].nan_to_num(7), value.nan_to_num(7)) for name, value in SPOILED.items())


@pytest.mark.usefixtures("running")
def test_steps_that_are_not_finite_can_be_skipped(tokens: np.ndarray, tmp_path: Path) -> None:
    members = three(tmp_path, tokens, "broken", spoil_at(4), "train.on_nonfinite=skip")
    first, skipped, _ = train_stack(members)
    assert isinstance(first, Trained) and first.skipped == 0
    assert isinstance(skipped, Trained) and skipped.skipped == 8
    events = [json.loads(line) for line in (members[1].folder / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [("skipped", step) for step in range(5, 13)]
    assert [row[0] for row in curve(members[1].folder)] == [1, 2, 3, 4]


def stop_at(step: int, number: signal.Signals = signal.SIGTERM) -> OnRows:
    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == step:
            signal.raise_signal(number)

    return stop


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 5), (signal.SIGINT, 5), (signal.SIGTERM, 12)])
def test_a_stack_that_is_stopped_resumes_bit_for_bit(
    number: signal.Signals, step: int, expected: list[Member], tokens: np.ndarray, tmp_path: Path
) -> None:
    """Also at the last step: the command must end."""
    members = three(tmp_path, tokens, "parts", stop_at(step, number))
    outcomes = train_stack(members)
    for outcome in outcomes:
        assert isinstance(outcome, Interrupted) and outcome.signum == number
        assert f"stopped at step {step} of 12; saved in" in str(outcome)
    again = three(tmp_path, tokens, "parts")
    assert all(isinstance(outcome, Trained) for outcome in train_stack(again))
    for found, one in zip(again, expected, strict=True):
        assert same(weights(found.decoder), weights(one.decoder))
        assert curve(found.folder) == curve(one.folder)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "schedule_free"])
def test_runs_resume_alone_and_in_another_stack(name: str, tokens: np.ndarray, tmp_path: Path) -> None:
    """One run resumes alone after a stack; another, started alone, joins a stack in which a third is at its first step."""
    overrides = [f"optimizer={name}", "train.log_every=1"]
    settled = [run(tmp_path, *overrides, f"seed={seed}", steps=12) for seed in range(3)]
    members = [member(each, tokens, tmp_path / str(index)) for index, each in enumerate(settled)]
    expected = [alone(each, tmp_path / "alone" / str(index)) for index, each in enumerate(members)]

    members[0].on_rows = stop_at(4)
    train_stack(members[:2])
    fit(members[0].decoder, tokens, settled[0], members[0].folder, ignore)
    assert_equal(members[0], expected[0])
    members[1] = member(settled[1], tokens, members[1].folder)
    outcomes = train_stack(members[1:])
    assert all(isinstance(outcome, Trained) for outcome in outcomes)
    for found, one in zip(members[1:], expected[1:], strict=True):
        assert_equal(found, one)

    with pytest.raises(Interrupted):
        fit(decoder_of(settled[0]), tokens, settled[0], tmp_path / "begun", stop_at(7))
    joined = [member(settled[0], tokens, tmp_path / "begun"), member(settled[1], tokens, tmp_path / "new")]
    assert all(isinstance(outcome, Trained) for outcome in train_stack(joined))
    for found, one in zip(joined, expected[:2], strict=True):
        assert_equal(found, one)


def test_what_cannot_be_read_or_recorded_ends_one_run_alone(expected: list[Member], tokens: np.ndarray, tmp_path: Path) -> None:

    def raising(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == 3:
            raise OSError("no room")

    members = three(tmp_path, tokens, "raising", raising)
    _, failed, _ = train_stack(members)
    assert isinstance(failed, OSError)
    assert_others_equal(members, expected)
    members = three(tmp_path, tokens, "unread")
    members[1].start = Start(checkpoints=tmp_path / "nowhere")
    first, failed, _ = train_stack(members)
    assert isinstance(failed, RunFailed) and isinstance(first, Trained) and first.runs == 2


def test_what_may_train_together(tmp_path: Path) -> None:
    key = stack_key(run(tmp_path))
    hash(key)
    for same_shape in DIFFERENCES.values():
        assert stack_key(run(tmp_path, *same_shape)) == key
    others: list[list[str]] = [
        ["arch.depth=3"], ["train.batch_tokens=256"], ["train.micro_batch=4"], ["train.context_length=16"], ["optimizer=lion"],
        ["train.precision=bf16"], ["train.tokens=12800"], ["tokenizer.vocab_size=301"],
    ]  # fmt: skip
    for other in others:
        assert stack_key(run(tmp_path, *other)) != key, other
    two = run(tmp_path, "train.devices=2")
    assert stack_key(two) != stack_key(run(tmp_path, "train.devices=2", "seed=1"))
    assert stack_size(run(tmp_path), 5) == 1, "on a processor"
    assert stack_size(run(tmp_path, "train.stack=3"), 5) == 3
    assert stack_size(run(tmp_path, "train.stack=3"), 2) == 2
    assert stack_size(run(tmp_path, "train.stack=3", "train.devices=2"), 2) == 1
    assert run(tmp_path, "train.stack=3").identity == run(tmp_path).identity
    with pytest.raises(ValueError, match="2 different keys"):
        train_stack([Member(None, np.zeros(1), each, tmp_path, ignore) for each in (run(tmp_path), two)])  # type: ignore[arg-type]


def test_a_stack_that_does_not_fit_is_halved(
    expected: list[Member], tokens: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: Callable[..., None] = stack_module.Program.__init__

    def small(self: object, settled: list[Settled], *arguments: object, **named: object) -> None:
        if len(settled) > 2:
            raise torch.OutOfMemoryError("no room for three")
        first(self, settled, *arguments, **named)

    monkeypatch.setattr(stack_module.Program, "__init__", small)
    members = three(tmp_path, tokens, "halved")
    outcomes = train_stack(members)
    assert [outcome.runs for outcome in outcomes if isinstance(outcome, Trained)] == [2, 2, 1]
    for found, one in zip(members, expected, strict=True):
        assert_equal(found, one)
