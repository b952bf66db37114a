"""Where to compute."""

from __future__ import annotations


def pick_device(wanted: str) -> str:
    """The device that ``train.device`` means: "auto" is a GPU where PyTorch finds one, as Lightning chooses too."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
