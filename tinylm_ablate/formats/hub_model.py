"""Models of the Hugging Face hub by their names."""

from __future__ import annotations

import re
from pathlib import Path

from tinylm_ablate.errors import UserError
from tinylm_ablate.progress import shorten_retries

#: What names a repository on the hub: an owner and a name.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

#: The files of a model; nothing that would have to be unpickled.
_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


def is_hub_name(reference: str) -> bool:
    """Return whether a reference may name a model of the hub, such as "HuggingFaceTB/SmolLM2-135M"."""
    return _NAME.fullmatch(reference) is not None and not Path(reference).exists()


def hub_model(name: str, key: str) -> Path:
    """The folder of a model of the hub, fetched into the hub's own cache when it is first used.

    Args:
        name: Owner and name.
        key: The setting that names it.

    Raises:
        UserError: There is none, or the hub is out of reach.
    """
    from huggingface_hub import snapshot_download

    shorten_retries()
    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # errors of the network, of the hub and of the disk
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        raise UserError(f"{key}={name}: not a folder here, and the hub does not give it ({reason})") from None
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}={name}: this repository of the hub holds no config.json; allowed: a Llama, Qwen2 or Qwen3")
    return folder
