"""The shipped settings of shape and scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch

from tinylm_ablate.config import ArchConfig, Config, ScaleConfig


@pytest.fixture(scope="session")
def scale_of(compose: Callable[[list[str]], Config]) -> Callable[[str], ScaleConfig]:
    """The scale of a name."""
    return cache(lambda name: compose([f"scale={name}"]).scale)


@pytest.fixture(scope="session")
def arch_of(compose: Callable[[list[str]], Config]) -> Callable[..., ArchConfig]:
    """The default architecture (20 layers, as the paper's baseline), with changes."""
    arch = compose([]).arch

    def make(**changes: Any) -> ArchConfig:
        return dataclasses.replace(arch, **changes)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
