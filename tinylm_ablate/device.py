"""Where to compute."""

from __future__ import annotations

import os


def pick_device(wanted: str) -> str:
    """The device that ``train.device`` means: "auto" is a GPU where PyTorch finds one, as Lightning chooses too."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_threads(wanted: int | str) -> None:
    """Let PyTorch compute on as many CPU threads as ``train.threads`` means: "auto" is one a core."""
    import torch

    torch.set_num_threads((os.cpu_count() or 1) if isinstance(wanted, str) else wanted)
