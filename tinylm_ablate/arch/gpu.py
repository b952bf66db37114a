"""Our kernels for a GPU, on machines that have one."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from tinylm_ablate.hardware import has_gpu_driver

#: The module ``gpu_kernels``; None on a machine without a GPU, or without Triton.
KERNELS: ModuleType | None = (
    importlib.import_module("tinylm_ablate.arch.gpu_kernels")
    if has_gpu_driver() and importlib.util.find_spec("triton") is not None
    else None
)
