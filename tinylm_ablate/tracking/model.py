"""A trained model in the format of MLflow's transformers flavor, without a signature."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

#: Files of a tokenizer, which the flavor stores in a separate folder.
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def description(folder: Path, model_id: str, run_id: str) -> str:
    """Return the content of ``MLmodel``, which ``mlflow.transformers.load_model`` needs and which refers to the model."""
    import yaml

    config = json.loads((folder / "config.json").read_bytes())
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        version = str(config.get("transformers_version", "5"))
    flavor = {
        "transformers_version": version, "code": None, "task": "text-generation", "instance_type": "TextGenerationPipeline",
        "framework": "pt", "pipeline_model_type": (config.get("architectures") or ["LlamaForCausalLM"])[0],
        "source_model_name": f"{folder.parent.name}/{folder.name}", "model_binary": "model",
        "tokenizer_type": "PreTrainedTokenizerFast", "components": ["tokenizer"],
    }  # fmt: skip
    return yaml.safe_dump({"flavors": {"transformers": flavor}, "model_uuid": model_id, "model_id": model_id, "run_id": run_id})


def files(folder: Path) -> dict[str, Path]:
    """Return the model's files by their names in the flavor's format."""
    found = {f"model/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()}
    return found | {f"components/tokenizer/{name}": folder / name for name in _TOKENIZER if (folder / name).is_file()}
