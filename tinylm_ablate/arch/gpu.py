"""Our kernels for a GPU, on machines that can use them."""

from __future__ import annotations

import contextlib
import importlib
from types import ModuleType

from tinylm_ablate.hardware import can_compile, has_gpu_driver

#: The modules ``gpu_kernels`` and ``gpu_attention``; None without a GPU, Triton, or what Triton compiles with.
KERNELS: ModuleType | None = None
ATTENTION: ModuleType | None = None
if has_gpu_driver() and can_compile():
    with contextlib.suppress(ImportError):
        KERNELS = importlib.import_module("tinylm_ablate.arch.gpu_kernels")
        ATTENTION = importlib.import_module("tinylm_ablate.arch.gpu_attention")
