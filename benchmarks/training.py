"""Tokens a second of a training step, against transformers and litgpt.

Three comparisons: with transformers as it is (eager, fp32), with litgpt as it is (bf16-mixed, compiled), and with the faster of
the two when they are given what we have: compiled, and in the arithmetic that this processor is fastest in. Where a processor
has no instructions for bf16, litgpt as it is is very slow, and both are measured on an eighth of the batch. A fourth comparison
is with our own step without the C kernels of attention. Processors with bf16 instructions but no matrix unit (AMX), or one that
ONEDNN_MAX_CPU_ISA forbids, have results of their own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable

from benchmarks.measure import THREADS, Result, interleaved, product, quartiles
from benchmarks.models import CASES, litgpt_step, ours, transformers_step, without_kernel

PARTS = (*(f"{case}{kind}" for kind in ("", "-compiled", "-bf16") for case in CASES), "N-kernel")


def run(part: str, windows: int) -> Result:
    """Measure one case against transformers ("S"), both peers compiled ("S-compiled"), litgpt ("S-bf16"), or ourselves without
    the C kernels of attention ("N-kernel"). Compiled, litgpt is left out where it is not installed."""
    import torch

    from tinylm_ablate.arch import bf16_attention
    from tinylm_ablate.arch.shapes import flops_per_token
    from tinylm_ablate.hardware import fast_bf16

    torch.set_num_threads(THREADS)
    name, _, kind = part.partition("-")
    case = CASES[name]
    fast = "bf16" if fast_bf16("cpu") else "fp32"
    if kind == "bf16" and fast == "fp32":
        case = dataclasses.replace(case, batch=max(1, case.batch // 8))
    paths: dict[str, Callable[[], object]] = {"ours": ours(case, fast, compile=True)}
    if kind == "":
        paths["transformers, its defaults (fp32, eager)"] = transformers_step(case, "fp32", compile=False)
    elif kind == "compiled":
        paths[f"transformers, {fast}, compiled"] = transformers_step(case, fast, compile=True)
        if importlib.util.find_spec("litgpt") is not None:
            paths[f"litgpt, {fast}, compiled"] = litgpt_step(case, fast)
        else:
            print("  litgpt is not installed, and not measured (make bench installs it)", file=sys.stderr)
    elif kind == "kernel":
        paths["ours, without the C kernels of attention"] = without_kernel(ours(case, fast, compile=True))
    else:
        paths["litgpt, its defaults (bf16-mixed, compiled)"] = litgpt_step(case, "bf16")
    multiply, flops = product({"fp32": "float32", "bf16": "bfloat16"}[fast])
    paths["limit"] = multiply
    times = interleaved(paths, windows)
    limit = quartiles([flops / seconds / 1e9 for seconds in times.pop("limit")])
    flops_token = flops_per_token(case.shape, case.length)["training"]
    rates = {name: [case.tokens / seconds for seconds in seconds_] for name, seconds_ in times.items()}
    return {
        "processor": "without AMX" if fast == "bf16" and bf16_attention.kind() != "attention_amx" else "",
        "tokens_per_step": case.tokens,
        "arithmetic": fast,
        "limit_gflops": limit,
        "flops_per_token": flops_token,
        "tokens_per_second": {name: quartiles(rate) | {"windows": rate} for name, rate in rates.items()},
        "ratio": {
            name: quartiles([a / b for a, b in zip(rates["ours"], rate, strict=True)])
            for name, rate in rates.items()
            if name != "ours"
        },
        "share_of_limit": {
            name: quartiles(rate)["median"] * flops_token / 1e9 / limit["median"] for name, rate in rates.items()
        },
    }
