"""Models on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from tinylm_ablate.errors import UserError, one_line
from tinylm_ablate.progress import shorten_retries

#: Name of a repository on the hub: an owner and a name.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

#: Files of a model that are not pickles.
_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


def is_hub_name(reference: str) -> bool:
    """Return whether a reference looks like a model on the hub, such as "HuggingFaceTB/SmolLM2-135M"."""
    return _NAME.fullmatch(reference) is not None and not Path(reference).exists()


def hub_model(name: str, key: str) -> Path:
    """Download a model from the hub into the hub's cache, on first use, and return its folder.

    Args:
        name: Owner and name.
        key: The setting with the name, for messages.

    Raises:
        UserError: The model does not exist, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    shorten_retries()
    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # errors of the network, of the hub and of the disk
        raise UserError(f"{key}={name}: not a folder here, and not available on the hub ({one_line(error)})") from None
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}={name}: this repository has no config.json; allowed: a Llama, Qwen2 or Qwen3")
    return folder
