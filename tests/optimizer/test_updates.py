"""The optimizers compared with PyTorch's and another library's, and several runs compared with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.config import Config, OptimizerConfig
from tinylm_ablate.optimizer.optimizers import build_optimizer, final_weights, optimizer_state, restore_optimizer
from tinylm_ablate.optimizer.stacked import Layout, StackedOptimizer
from tinylm_ablate.optimizer.updates import RULES, Settings, apply, first_state, scaled_orthogonal

SHAPE = Shape(2, 16, 24, 2, 2, 8, 40)
NAMES = ("adamw", "lion", "muon", "schedule_free")
STEPS = 12


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest, compose: Callable[[list[str]], Config]) -> OptimizerConfig:
    return compose([f"optimizer={request.param}", "optimizer.weight_decay=0.3"]).optimizer


def decoder(seed: int = 0) -> Decoder:
    made = Decoder(SHAPE)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, 0.2, generator=generator)
    return made


def gradients(model: nn.Module, step: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return {name: torch.randn(p.shape, generator=generator) * 0.1 for name, p in model.named_parameters()}


def rate(step: int) -> float:
    return 0.01 * (1 - step / (2 * STEPS))


def step_once(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, grads: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = grads[name].clone()
    for group in optimizer.param_groups:
        group["lr"] = rate(step)
    optimizer.step()


def theirs(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the same optimizer from another library."""
    library = pytest.importorskip("pytorch_optimizer")
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("layers.")]
    ends = [p for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith("layers.")]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    betas, decay = (config.beta1, config.beta2), config.weight_decay
    if config.name == "muon":
        groups = [{"params": matrices, "lr": 1.0, "weight_decay": decay, "use_muon": True}]
        for part, own in ((ends, decay), (vectors, 0.0)):
            other = {"lr": 1.0, "weight_decay": own, "use_muon": False, "betas": betas, "eps": config.eps}
            groups.append({"params": part} | other)
        return library.Muon(groups, momentum=config.momentum, use_adjusted_lr=True)
    groups = [{"params": matrices + ends, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    if config.name == "lion":
        return library.Lion(groups, lr=1.0, betas=betas)
    if config.name == "schedule_free":
        return library.ScheduleFreeAdamW(groups, lr=1.0, betas=betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=config.eps, foreach=False)


def test_it_is_the_published_optimizer(config: OptimizerConfig) -> None:
    ours, other = decoder(), decoder()
    our_optimizer = build_optimizer(ours, config, 1.0, products=torch.bfloat16)
    their_optimizer = theirs(other, config)
    for step in range(STEPS):
        step_once(ours, our_optimizer, step, gradients(ours, step))
        step_once(other, their_optimizer, step, gradients(other, step))
    if config.name == "schedule_free":
        ours.load_state_dict(final_weights(our_optimizer, ours))
        their_optimizer.eval()  # type: ignore[attr-defined]
    atol = 2e-3 if config.name == "muon" else 1e-5  # the other library orthogonalizes in bf16 and rounds differently
    for (name, found), expected in zip(ours.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("rule", ["adamw"])
def test_the_rule_of_adamw_equals_pytorchs(rule: str) -> None:
    """The AdamW of stacks and of Muon's vectors; a run alone uses PyTorch's fused implementation."""
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    expected = weights.clone().requires_grad_()
    optimizer = torch.optim.AdamW([expected], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    state = first_state(RULES[rule], weights)
    for step in range(20):
        expected.grad = torch.randn(50, generator=torch.Generator().manual_seed(step + 1))
        apply(RULES[rule], weights, expected.grad, state, Settings(0.01, 0.1, 0.9, 0.95, 1e-8, 0.0, step + 1.0))
        optimizer.step()
    torch.testing.assert_close(weights, expected.detach())


@pytest.mark.parametrize("size", [(12, 12), (30, 7), (5, 40)])
def test_matrices_become_orthogonal(size: tuple[int, int]) -> None:
    """Jordan's iteration brings singular values to between about 0.7 and 1.2 and keeps the directions."""
    matrix = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    found = scaled_orthogonal(matrix, torch.float32) / (0.2 * max(size) ** 0.5)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert float(((u @ vh) * found).sum()) > 0.95 * float((u @ vh).norm() * found.norm())


def layout_of(model: Decoder) -> Layout:
    return Layout.of({name: parameter.shape for name, parameter in model.named_parameters()})


def test_every_parameter_has_its_own_aligned_memory() -> None:
    model = decoder()
    layout = layout_of(model)
    rows = torch.zeros(2, layout.width)
    views = layout.views(rows)
    assert views.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert views[name].shape == (2, *parameter.shape)
        assert views[name].storage_offset() * 4 % 64 == 0
        views[name] += 1
    assert set(rows.unique().tolist()) == {0.0, 1.0}
    assert int(rows.sum()) == 2 * sum(parameter.numel() for parameter in model.parameters())


def test_several_runs_equal_each_run_alone(config: OptimizerConfig) -> None:
    """With different settings; the middle run skips two steps, in which its gradients are not finite."""
    configs = [
        config,
        dataclasses.replace(config, beta1=0.8, beta2=0.99, eps=1e-6, weight_decay=0.1, momentum=0.8, clip=0.5),
        dataclasses.replace(config, decay="all"),
    ]
    models = [decoder(seed) for seed in range(3)]
    layout = layout_of(models[0])
    weights = torch.zeros(3, layout.width)
    for run, model in enumerate(models):
        for name, parameter in model.named_parameters():
            layout.views(weights)[name][run] = parameter.detach()
    together = StackedOptimizer(layout, weights, configs, torch.float32)
    optimizers = [build_optimizer(model, each, 1.0) for model, each in zip(models, configs, strict=True)]
    for step in range(STEPS):
        grads = torch.zeros_like(weights)
        active = torch.tensor([True, step not in (0, 5), True])
        for run, model in enumerate(models):
            own = gradients(model, step, run)
            for name, view in layout.views(grads).items():
                view[run] = own[name]
            if active[run]:
                for name, parameter in model.named_parameters():
                    parameter.grad = own[name]
                nn.utils.clip_grad_norm_(model.parameters(), configs[run].clip)
                step_once(model, optimizers[run], step, {name: p.grad for name, p in model.named_parameters()})  # type: ignore[misc]
        before = weights.clone()
        if not active[1]:
            grads[1] = float("nan")
        expected_norms = grads.norm(dim=1)
        norms = together.step(grads, torch.full((3,), rate(step), dtype=torch.float64), active)
        torch.testing.assert_close(norms, expected_norms, equal_nan=True)
        assert active[1] or torch.equal(weights[1], before[1])
    for run, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(layout.views(weights)[name][run], parameter.detach(), rtol=1e-5, atol=1e-6, msg=name)
        (kept, counters), (expected, expected_counters) = together.state_of(run), optimizer_state(optimizer, model)
        assert counters == pytest.approx(expected_counters)
        assert counters["updates"] == STEPS - (2 if run == 1 else 0)
        for kind, tensors in expected.items():
            for name, value in tensors.items():
                torch.testing.assert_close(kept[kind][name], value, rtol=1e-4, atol=1e-6)


def test_state_moves_between_one_run_and_several(config: OptimizerConfig) -> None:
    model = decoder()
    optimizer = build_optimizer(model, config, 1.0)
    for step in range(3):
        step_once(model, optimizer, step, gradients(model, step))
    kept, counters = optimizer_state(optimizer, model)
    layout = layout_of(model)
    weights = torch.zeros(2, layout.width)
    for name, parameter in model.named_parameters():
        layout.views(weights)[name][1] = parameter.detach()
    together = StackedOptimizer(layout, weights, [config, config], torch.float32)
    together.restore(1, kept, counters)
    again_kept, again_counters = together.state_of(1)
    assert again_counters == counters
    assert together.state_of(0)[0] == {}, "a run without updates has no state"
    other = decoder()
    other.load_state_dict(model.state_dict())
    resumed = build_optimizer(other, config, 1.0)
    restore_optimizer(resumed, other, again_kept, again_counters)
    for each, its in ((model, optimizer), (other, resumed)):
        step_once(each, its, 3, gradients(each, 3))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_users_rule_may_change_the_settings_of_a_built_in_one() -> None:
    """Its betas apply to the corrections too."""
    settings = Settings(0.01, 0.1, 0.9, 0.95, 1e-8, 0.0, 2.0)
    weights = [torch.ones(3) for _ in range(2)]
    wanted = Settings(0.01, 0.1, 0.5, 0.999, 1e-8, 0.0, 7.0)
    for own, each in zip(weights, (dataclasses.replace(settings, beta1=0.5, beta2=0.999, updates=7.0), wanted), strict=True):
        apply(RULES["adamw"], own, torch.full((3,), 0.2), first_state(RULES["adamw"], own), each)
    assert torch.equal(*weights)
