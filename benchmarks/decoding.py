"""New tokens per second of greedy decoding with a cache of keys and values, batch 20, against transformers' ``generate``."""

from __future__ import annotations

from benchmarks.measure import THREADS, Result, interleaved, quartiles
from benchmarks.models import CASES, transformers_model

PARTS = ("N", "S")
BATCH, PREFIX = 20, 2
NEW_TOKENS = 120


def run(part: str, windows: int) -> Result:
    """Measure one shape in fp32."""
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.arch.decoding import generate
    from tinylm_ablate.formats.huggingface import from_huggingface

    torch.set_num_threads(THREADS)
    shape, new = CASES[part].shape, NEW_TOKENS
    peer = transformers_model(shape).eval()
    decoder = Decoder(shape).eval()
    decoder.load_state_dict(from_huggingface(peer.state_dict(), shape), strict=False)
    prompts = torch.randint(shape.vocab_size, (BATCH, PREFIX), generator=torch.Generator().manual_seed(0))

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            return peer.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                use_cache=True, pad_token_id=0, eos_token_id=None,
            )  # fmt: skip

    def own() -> torch.Tensor:
        return generate(decoder, prompts, new)

    equal = float((own() == theirs()).float().mean())
    times = interleaved({"ours": own, "transformers": theirs}, windows, warm_up=0)
    rates = {name: [BATCH * new / seconds for seconds in each] for name, each in times.items()}
    return {
        "new_tokens": new,
        "equal_tokens": equal,
        "tokens_per_second": {name: quartiles(rate) | {"windows": rate} for name, rate in rates.items()},
        "ratio": quartiles([a / b for a, b in zip(rates["ours"], rates["transformers"], strict=True)]),
    }
