"""Settings of shape and scale as shipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tinylm_ablate.config import ArchConfig, Config, ScaleConfig


@pytest.fixture(scope="session")
def scale_of(compose: Callable[[list[str]], Config]) -> Callable[[str], ScaleConfig]:
    """Return the scale with a name."""
    return cache(lambda name: compose([f"scale={name}"]).scale)


@pytest.fixture(scope="session")
def arch_of(compose: Callable[[list[str]], Config]) -> Callable[..., ArchConfig]:
    """Return the default architecture (20 layers, like the paper's baseline), with changes."""
    arch = compose([]).arch

    def make(**changes: Any) -> ArchConfig:
        return dataclasses.replace(arch, **changes)

    return make
