"""Faster import of Lightning.

A run that compiles nothing needs a third of what Lightning imports (docs/LAB.md), so two packages are replaced while it is
imported. Where either has changed, it is imported as it is.

- torchmetrics imports scipy.signal, transformers and matplotlib where it finds them, for metrics that training does not use. It
  asks ``lightning_utilities`` for them, and is answered that they are missing.
- The compiler, ``torch._dynamo``, is imported for the type of a compiled model, which no model here has: layers are compiled in
  place. Optimizers import it when they are first used, to keep it away from themselves.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

#: What torchmetrics can do without, by what it calls them.
_OPTIONAL = ("scipy", "transformers", "matplotlib", "scienceplots", "torchvision", "torchaudio", "nltk", "regex")

_COMPILER = "torch._dynamo"


def import_lightning() -> None:
    """Import Lightning without what it does not need here; nothing, if it is there already. Call it before any other import."""
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
            # Kept: the answer stays what it was when torchmetrics was imported.
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
    """Put a module in the compiler's place that has only what Lightning takes from it: a type, and a decorator that keeps the
    compiler from code of Lightning's that nobody compiles."""
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
