"""How a grid's runs share the machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.execute.workers import divide, wanted_workers
from tinylm_ablate.grid import workers
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

Compose = Callable[[list[str]], Config]


def runs(compose: Compose, count: int, *overrides: str) -> list[Settled]:
    return [settle(compose([f"seed={seed}", "arch.depth=2", *overrides])) for seed in range(count)]


@pytest.mark.parametrize(("count", "asked", "cores", "expected"), [
    (8, 2, 8, (2, 4)), (8, 3, 8, (3, 2)), (3, 8, 12, (3, 4)), (8, 4, 2, (4, 1)), (1, 4, 4, (1, None)), (5, 1, 4, (1, None)),
])  # fmt: skip
def test_a_number_of_workers_shares_the_cores(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, count: int, asked: int, cores: int, expected: tuple[int, int | None]
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    assert divide(runs(compose, count), asked) == expected


def test_threads_that_were_chosen_are_kept(compose: Compose) -> None:
    assert divide(runs(compose, 3, "train.threads=1"), 2) == (2, None)
    assert divide(runs(compose, 3, "train.threads=1"), "auto") == (1, None)


def test_the_measured_division_uses_every_core_once(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    at_once, threads = divide(runs(compose, 4, "scale=s32"), "auto")
    assert (at_once, threads) in [(2, 1), (1, None)]


def test_a_mistake_is_told(compose: Compose) -> None:
    for wrong in ("0", "some"):
        with pytest.raises(ConfigError, match=f"grid.workers={wrong}: allowed: "):
            settle(compose([f"grid.workers={wrong}"]))


def test_a_launcher_with_workers_of_its_own_has_no_others() -> None:
    assert wanted_workers("auto", "basic") == "auto" and wanted_workers("auto", "ray") == wanted_workers(1, "ray") == 1
    with pytest.raises(ConfigError, match=r"grid\.workers=2: allowed with hydra/launcher=ray: 1"):
        wanted_workers(2, "ray")
