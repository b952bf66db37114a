"""Faster import of Lightning.

A run without compilation needs only a third of Lightning's imports (docs/LAB.md), so two packages are replaced during its
import. If either has changed, it is imported normally.

- torchmetrics imports scipy.signal, transformers and matplotlib if available, for metrics that training does not use. It
  checks for them with ``lightning_utilities``, which is made to report that they are missing.
- The compiler, ``torch._dynamo``, is imported for the type of a compiled model, which no model here has: layers are compiled in
  place. Optimizers import it on first use, to exclude themselves from compilation.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

#: Optional packages of torchmetrics, by its names for the checks.
_OPTIONAL = ("scipy", "transformers", "matplotlib", "scienceplots", "torchvision", "torchaudio", "nltk", "regex")

_COMPILER = "torch._dynamo"


def import_lightning() -> None:
    """Import Lightning without unnecessary modules, unless it is imported already. Call this before any other import of it."""
    if "lightning.pytorch" in sys.modules:
        return
    with _without_optional(), _without_compiler():
        importlib.import_module("torchmetrics")
        importlib.import_module("lightning.pytorch")


@contextlib.contextmanager
def _without_optional() -> Iterator[None]:
    """Hide torchmetrics' optional packages."""
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    available, check = imports.package_available, getattr(imports.RequirementCache, "_check_available", None)
    if check is None:
        yield
        return

    def hidden_check(cache: Any) -> None:
        name = cache.requirement or cache.module or ""
        if name.startswith(_OPTIONAL):
            # Cached, so that the result stays the same as during the import of torchmetrics.
            cache.available, cache.message = False, f"{name} is not needed"
        check(cache)

    imports.package_available = lambda name: name not in _OPTIONAL and available(name)
    imports.RequirementCache._check_available = hidden_check
    try:
        yield
    finally:
        imports.package_available, imports.RequirementCache._check_available = available, check


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Replace the compiler by a module with only what Lightning uses: a type, and a decorator to exclude code."""
    import torch

    if _COMPILER in sys.modules:
        yield
        return
    stand_in = types.ModuleType(_COMPILER)
    vars(stand_in).update(OptimizedModule=type("OptimizedModule", (), {}), disable=lambda function, *_, **__: function)
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER]
        vars(torch).pop("_dynamo", None)
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        own = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if own is not None:
            vars(own).setdefault("__dynamo_disable", own)
