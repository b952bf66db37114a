"""How many workers share a machine, and with how many threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers import TINY
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.execute import workers
from tinylm_ablate.execute.workers import divide
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

Compose = Callable[[list[str]], Config]


def runs(compose: Compose, count: int, *overrides: str) -> list[Settled]:
    return [settle(compose([f"seed={seed}", "arch.depth=2", *overrides])) for seed in range(count)]


@pytest.mark.parametrize(("count", "requested", "cores", "expected"), [
    (8, 2, 8, (2, 4)), (8, 3, 8, (3, 2)), (3, 8, 12, (3, 4)), (8, 4, 2, (4, 1)), (1, 4, 4, (1, None)), (5, 1, 4, (1, None)),
])  # fmt: skip
def test_a_number_of_workers_shares_the_cores(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, count: int, requested: int, cores: int, expected: tuple[int, int | None]
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    assert divide(runs(compose, count), requested) == expected


def test_a_chosen_number_of_threads_is_kept(compose: Compose) -> None:
    assert divide(runs(compose, 3, "train.threads=1"), 2) == (2, None)
    assert divide(runs(compose, 3, "train.threads=1"), "auto") == (1, None)


def test_the_measured_division_uses_every_core_once(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    assert divide(runs(compose, 4, *TINY, "train.threads=auto"), "auto") in [(2, 1), (1, None)]


@pytest.mark.parametrize(("count", "gpus", "devices", "expected"), [(4, 2, 1, 2), (1, 8, 1, 1), (4, 2, 2, 1)])
def test_each_gpu_has_one_worker(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, count: int, gpus: int, devices: int, expected: int
) -> None:
    """The number of GPUs is planted: the runs are settled for a processor and then moved."""
    settled = runs(compose, count)
    for run in settled:
        run.config.train.device, run.config.train.devices = "cuda", devices
    monkeypatch.setattr(workers, "gpus", lambda: gpus)
    assert divide(settled, "auto") == (expected, None)


@pytest.mark.parametrize("wrong", ["0", "some", "1025"])
def test_a_wrong_number_of_workers_is_reported(compose: Compose, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"grid.workers={wrong}: allowed: "):
        settle(compose([f"grid.workers={wrong}"]))
