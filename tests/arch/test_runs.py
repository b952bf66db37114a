"""A decoder of several runs compared with one decoder per run."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.arch.test_decoder import SHAPES, random_decoder
from tinylm_ablate.arch import loss as loss_module
from tinylm_ablate.arch import runs as runs_module
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.arch.stacking import stacked
from tinylm_ablate.train.compile import assume_kernels

RUNS = 3


@pytest.fixture(params=["run by run", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products run by run, as on a CPU, and of all runs at once, as on a GPU."""
    monkeypatch.setattr(runs_module, "_ONE_BY_ONE", {"cpu"} if request.param == "run by run" else set())


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


def several(shape: Shape) -> tuple[list[Decoder], Tensor]:
    """Return decoders with different weights, and different ids, (R, B, T + 1)."""
    ids = torch.randint(shape.vocab_size, (RUNS, 2, 18), generator=torch.Generator().manual_seed(3))
    return [random_decoder(shape, seed) for seed in range(RUNS)], ids


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [1, 2**20], ids=["many chunks", "one chunk"])
def test_losses_and_gradients_equal_those_of_each_run_alone(
    shape: Shape, precision: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss_module.CHUNK_BYTES, "cpu", chunk)
    decoders, ids = several(shape)
    together = stacked(decoders)
    close = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.05}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        losses = together.loss(ids[..., :-1], ids[..., 1:])
    assert losses.shape == (RUNS,)
    losses.sum().backward()
    for run, decoder in enumerate(decoders):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            alone = decoder.loss(ids[run, :, :-1], ids[run, :, 1:])
        torch.testing.assert_close(losses[run], alone, **close)
        alone.backward()
        for name, parameter in decoder.named_parameters():
            torch.testing.assert_close(together.get_parameter(name).grad[run], parameter.grad, **close, msg=name)


def test_on_a_processor_results_are_bit_identical_to_the_run_alone(shape: Shape) -> None:
    decoders, ids = several(shape)
    together = stacked(decoders)
    losses = together.loss(ids[..., :-1], ids[..., 1:])
    losses.sum().backward()
    for run, decoder in enumerate(decoders):
        alone = decoder.loss(ids[run, :, :-1], ids[run, :, 1:])
        assert torch.equal(losses[run], alone)
        alone.backward()
        for name, parameter in decoder.named_parameters():
            assert torch.equal(together.get_parameter(name).grad[run], parameter.grad), name


@pytest.mark.usefixtures("way")
def test_a_run_does_not_see_the_others(shape: Shape) -> None:
    decoders, ids = several(shape)
    before = stacked(decoders).loss(ids[..., :-1], ids[..., 1:], reduction="none")
    ids[1] = (ids[1] + 1) % shape.vocab_size
    with torch.no_grad():
        for parameter in decoders[2].parameters():
            parameter.fill_(float("nan"))
    after = stacked(decoders).loss(ids[..., :-1], ids[..., 1:], reduction="none")
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1]) and bool(after[2].isnan().all())


@pytest.mark.usefixtures("way")
def test_all_runs_may_read_the_same_text(shape: Shape) -> None:
    decoders, ids = several(shape)
    together, (inputs, targets) = stacked(decoders), (ids[0, :, :-1], ids[0, :, 1:])
    with torch.inference_mode():
        losses, logits = together.loss(inputs, targets, reduction="none"), together(inputs)
        for run, decoder in enumerate(decoders):
            torch.testing.assert_close(losses[run], decoder.loss(inputs, targets, reduction="none"))
            torch.testing.assert_close(logits[run], decoder(inputs))


@pytest.mark.usefixtures("way")
def test_recomputed_activations_change_nothing(shape: Shape) -> None:
    decoders, ids = several(shape)
    plain, saving = stacked(decoders), stacked(decoders)
    saving.checkpointing = True
    for decoder in (plain, saving):
        decoder.loss(ids[..., :-1], ids[..., 1:]).sum().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_layers_can_be_compiled() -> None:
    """Each is one graph with the same gradients; compiled code is tested with the training of runs."""
    decoders, ids = several(dataclasses.replace(SHAPES["grouped, tied"], depth=1))
    plain, compiled = stacked(decoders), stacked(decoders)
    assume_kernels()
    for layer in compiled.layers:
        layer.compile(fullgraph=True, backend="aot_eager")
    for decoder in (plain, compiled):
        decoder.loss(ids[..., :-1], ids[..., 1:]).sum().backward()
    for ours, theirs in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
