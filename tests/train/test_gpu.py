"""Training on a GPU: one graph per step, the results of a CPU, isolation, and checkpoints that move between devices."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.test_fit import curve, ignore, same, weights
from tests.train.test_stack import RUNNING, STEPS, member, run, running, spoil_at, stop_at
from tinylm_ablate.errors import Interrupted, Pruned, RunFailed
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.fit import fit
from tinylm_ablate.train.member import Member, OnRows, Trained
from tinylm_ablate.train.stack import train_stack
from tinylm_ablate.train.stack_key import stack_size

pytestmark = pytest.mark.gpu

__all__ = ["running"]  # a fixture

CUDA = "train.device=cuda"


@pytest.fixture(autouse=True)
def exact_products() -> None:
    """Compute fp32 products in fp32 rather than TF32."""
    torch.set_float32_matmul_precision("highest")


def on_gpu(tmp_path: Path, *overrides: str, steps: int = STEPS) -> Settled:
    return run(tmp_path, CUDA, *overrides, steps=steps)


def trained(members: list[Member]) -> list[Member]:
    outcomes = train_stack(members)
    assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
    return members


def assert_close(found: Member, expected: Member, tolerance: float = 2e-3) -> None:
    assert [row[0] for row in curve(found.folder)] == [row[0] for row in curve(expected.folder)]
    np.testing.assert_allclose(curve(found.folder), curve(expected.folder), rtol=tolerance)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "schedule_free"])
def test_a_run_alone_is_one_graph_and_has_the_losses_of_the_processor(name: str, tokens: np.ndarray, tmp_path: Path) -> None:
    (found,) = trained([member(on_gpu(tmp_path, f"optimizer={name}"), tokens, tmp_path / "gpu")])
    assert RUNNING[0].program._graph is not None
    (expected,) = trained([member(run(tmp_path, f"optimizer={name}"), tokens, tmp_path / "cpu")])
    assert_close(found, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-true"])
@pytest.mark.parametrize("more", [[], ["train.recompute=true"], ["train.compile=true"]], ids=str)
def test_a_run_in_a_stack_has_the_losses_of_the_run_alone(
    precision: str, more: list[str], tokens: np.ndarray, tmp_path: Path
) -> None:
    differences = (["seed=0"], ["optimizer.scaling.multiplier=3"], ["seed=2", "optimizer.weight_decay=0.5"])
    settled = [on_gpu(tmp_path, f"train.precision={precision}", *more, *own) for own in differences]
    together = trained([member(each, tokens, tmp_path / str(index)) for index, each in enumerate(settled)])
    for index, each in enumerate(settled):
        (alone,) = trained([member(each, tokens, tmp_path / f"alone {index}")])
        assert_close(together[index], alone, 2e-3 if precision == "fp32" else 0.03)


def test_after_300_steps_a_stack_differs_by_a_twentieth_of_the_spread_of_seeds(tokens: np.ndarray, tmp_path: Path) -> None:
    settled = [on_gpu(tmp_path, f"seed={seed}", steps=300) for seed in range(4)]
    together = trained([member(each, tokens, tmp_path / str(index)) for index, each in enumerate(settled)])
    last = np.array([curve(each.folder)[-1][1] for each in together])
    for index, each in enumerate(settled):
        (alone,) = trained([member(each, tokens, tmp_path / f"alone {index}")])
        assert abs(curve(alone.folder)[-1][1] - last[index]) < last.std(ddof=1) / 20


def three(tmp_path: Path, tokens: np.ndarray, name: str, middle: OnRows = ignore) -> list[Member]:
    settled = [on_gpu(tmp_path, "train.log_every=1", f"seed={seed}", steps=60) for seed in range(3)]
    return [member(each, tokens, tmp_path / name / str(i), middle if i == 1 else ignore) for i, each in enumerate(settled)]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("fault", ["pruned", "not finite"])
def test_a_run_that_leaves_does_not_change_the_others_by_a_bit(fault: str, tokens: np.ndarray, tmp_path: Path) -> None:
    expected = trained(three(tmp_path, tokens, "undisturbed"))
    middle = spoil_at(5) if fault == "not finite" else (lambda rows: rows[-1]["step"] == 5)
    members = three(tmp_path, tokens, fault, middle)
    outcomes = train_stack(members)
    assert isinstance(outcomes[1], RunFailed if fault == "not finite" else Pruned)
    for index in (0, 2):
        assert isinstance(outcomes[index], Trained)
        assert same(weights(members[index].decoder), weights(expected[index].decoder))
        assert curve(members[index].folder) == curve(expected[index].folder)


def test_a_run_moves_between_devices(tokens: np.ndarray, tmp_path: Path) -> None:
    (expected,) = trained([member(run(tmp_path, "train.log_every=1"), tokens, tmp_path / "cpu")])
    there = member(on_gpu(tmp_path, "train.log_every=1"), tokens, tmp_path / "moved", stop_at(5))
    (outcome,) = train_stack([there])
    assert isinstance(outcome, Interrupted) and outcome.signum == signal.SIGTERM
    with pytest.raises(Interrupted):
        here = run(tmp_path, "train.log_every=1")
        fit(there.decoder, tokens, here, there.folder, lambda rows: stop_at(int(rows[-1]["step"]))(rows))
    there.on_rows = ignore
    trained([there])
    assert_close(there, expected)


@pytest.mark.usefixtures("running")
def test_a_step_does_not_wait_for_the_host(tokens: np.ndarray, tmp_path: Path) -> None:
    trained([member(on_gpu(tmp_path, f"seed={seed}", steps=4), tokens, tmp_path / str(seed)) for seed in range(2)])
    program = RUNNING[0].program
    program.active.zero_()
    program.place.zero_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        program._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_decides_about_the_size_of_a_stack(tmp_path: Path) -> None:
    small = on_gpu(tmp_path)
    assert stack_size(small, 5) == 5
    assert stack_size(on_gpu(tmp_path, "train.stack=2"), 5) == 2
    large = on_gpu(tmp_path, "arch.depth=48", "arch.width=8192", "arch.ffn_width=32768", "tokenizer.vocab_size=300")
    assert stack_size(large, 5) == 1


def test_lightning_trains_on_it_too(tokens: np.ndarray, tmp_path: Path) -> None:
    settled = on_gpu(tmp_path)
    found, expected = (member(settled, tokens, tmp_path / name) for name in ("fit", "stack"))
    fit(found.decoder, tokens, settled, found.folder, ignore)
    trained([expected])
    assert_close(found, expected)
