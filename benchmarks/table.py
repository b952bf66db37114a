"""The table over all results: results/reference/bench/README.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tabulate import tabulate

from benchmarks.measure import RESULTS, Result, load
from tinylm_ablate.files import write_atomic

NAMES = (
    "training",
    "quality",
    "overhead",
    "grid",
    "memory",
    "tokenising",
    "startup",
    "decoding",
    "rounds",
    "commands",
    "report",
    "gpu",
    "soak",
)

Row = tuple[str, str, str, str, str]


def write_table() -> None:
    """Write the table, in which missed targets are marked."""
    results = {name: load(name) for name in NAMES}
    rows = [row for name in NAMES for row in _ROWS[name](results[name])]
    text = [
        "# Speed and memory against peers",
        "",
        "Written by `python -m benchmarks` (`make bench`) from the JSON files beside it, which hold every window. A ratio is",
        "the median, over windows that were measured in turn, of ours over the peer's, with the lowest and the highest; over 1",
        "is faster, but for times and memory, where less is better. The clock is the wall's, or where the column says cpu the",
        "processor time of one thread on a machine that did other work too.",
        "",
        tabulate(rows, headers=("what", "ours against", "wanted", "measured", "threads, clock"), tablefmt="github"),
        "",
        *_shares(results["training"]),
        *_machines(results),
        "",
        *(
            []
            if results["gpu"]
            else ["Not measured: anything on a GPU, since none was at hand (`python -m benchmarks gpu`).", ""]
        ),
        "Utilisation on a GPU is recorded there as",
        "`train/model_flops_utilisation`: by 6 N + 12 · depth · width · T FLOPs a token (PaLM's convention) over the dense",
        "bf16 peak; its arithmetic is tested against the published figures of TinyLlama and llm-foundry.",
        "",
    ]
    if (RESULTS / "quality.svg").exists():
        text += ["![Loss of three paths over 300 steps](quality.svg)", ""]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS / "README.md", "\n".join(text))


def _ratio(value: Result, digits: int = 2) -> str:
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def _how(result: Result) -> str:
    return f"{result['machine']['threads']}, {result['machine']['clock']}"


def _training(results: dict[str, Result]) -> Iterator[Row]:
    wanted = {"": "≥ 2.5", "compiled": "≥ 1.3", "bf16": "≥ 2", "kernel": "> 1"}
    for part, result in results.items():
        name, _, kind = part.partition("-")
        for peer, ratio in result["ratio"].items():
            rate = result["tokens_per_second"]["ours"]["median"]
            yield f"training step, {name}: {rate:,.0f} tokens/s", peer, wanted[kind], _ratio(ratio), _how(result)


def _shares(results: dict[str, Result]) -> list[str]:
    rows = [
        (part, path, result["arithmetic"], f"{result['limit_gflops']['median']:.0f}", f"{100 * share:.0f} %", _how(result))
        for part, result in results.items()
        for path, share in result["share_of_limit"].items()
    ]
    if not rows:
        return []
    headers = ("case", "path", "arithmetic", "limit, GFLOP/s", "share of it", "threads, clock")
    return [
        "The share of the limit that a training step attains: its matrix products (attention counted causally), over a product",
        "of two 2048 x 2048 matrices measured in the same windows.",
        "",
        tabulate(rows, headers=headers, tablefmt="github"),
        "",
    ]


def _quality(results: dict[str, Result]) -> Iterator[Row]:
    from benchmarks.quality import SEEDS, summary

    found = summary()
    if found is None:
        return
    how = _how(next(iter(results.values())))
    for path in found["last"]:
        if path in found:
            low, high = found[path]["interval"]
            words = f"{found[path]['difference']:+.4f} nats [{low:+.4f}, {high:+.4f}], p = {found[path]['p']:.2f}"
            yield (
                f"loss after 300 steps, {SEEDS} seeds: {path}", "transformers, fp32, eager",
                f"within the spread of seeds, {found['spread']:.4f}", words, how,
            )  # fmt: skip


def _overhead(results: dict[str, Result]) -> Iterator[Row]:
    for part, result in results.items():
        driver, wanted = ("the driver of a stack", "< 2 %") if part.startswith("stack") else ("Lightning", "< 3 %")
        yield (
            f"{driver}, log, bar and checkpoints, {part}", "the raw loop", wanted,
            f"{result['overhead_percent']:+.1f} % (windows {_ratio(result['ratio'], 3)})", _how(result),
        )  # fmt: skip


def _grid(results: dict[str, Result]) -> Iterator[Row]:
    for result in results.values():
        words = f"{result['ratio']:.2f} ({result['grid_seconds']:.0f} s to {result['processes_seconds']:.0f} s)"
        yield "8 runs of N's size as one grid: time", "8 processes one after another", "≤ 0.6", words, _how(result)


def _memory(results: dict[str, Result]) -> Iterator[Row]:
    for part, result in results.items():
        if part == "1B":
            words = f"{result['peak_bytes'] / 2**30:.1f} GiB, {result['seconds']:.0f} s"
            yield f"peak memory, one step of {result['parameters'] / 1e6:.0f} M", "", "≤ 16 GiB", words, _how(result)
            continue
        words = f"{result['ratio']:.2f} (beyond the libraries {result['ratio_beyond_libraries']:.2f}); "
        words += f"{result['ratio_recomputed']:.2f} with train.recompute=true"
        yield f"peak memory, {part}", "transformers, fp32, eager", "≤ 0.6", words, _how(result)


def _tokenising(results: dict[str, Result]) -> Iterator[Row]:
    if "default" in results:
        result = results["default"]
        rate = result["megabytes_per_second"]["shards"]["median"]
        yield f"text to shards: {rate:.2f} MB/s", "encode_batch", "≥ 0.9", _ratio(result["ratio"]), _how(result)
    if "open" in results:
        result = results["open"]
        yield "opening a shard of 10 GB", "", "< 0.1 s", f"{result['seconds']['median']:.4f} s", _how(result)
    if "large" in results:
        result = results["large"]
        words = f"{result['shards']['peak_bytes_beyond'] / 2**20:.0f} MiB beyond what was there"
        yield f"memory for shards of {result['bytes'] / 1e9:.1f} GB of text", "", "bounded", words, _how(result)


def _startup(results: dict[str, Result]) -> Iterator[Row]:
    if "help" in results:
        result = results["help"]
        yield "--help", "", "< 1 s", f"{result['seconds']['median']:.2f} s", _how(result)
    if "first step" in results:
        result = results["first step"]
        words = f"{result['none']['median']:.1f} s; with MLflow {result['mlflow']['median']:.1f} s"
        yield "until the first step", "", "< 4 s", words, _how(result)


def _decoding(results: dict[str, Result]) -> Iterator[Row]:
    for part, result in results.items():
        rate = result["tokens_per_second"]["ours"]["median"]
        yield (
            f"decoding, {part}, batch 20: {rate:,.0f} tokens/s", "transformers' generate", "≥ 1.5", _ratio(result["ratio"]),
            _how(result),
        )  # fmt: skip


def _rounds(results: dict[str, Result]) -> Iterator[Row]:
    for part, result in results.items():
        rate = result["tokens_per_second"]["loss pass"]["median"]
        yield (
            f"pass over batch losses, {part}: {rate:,.0f} tokens/s", "training the same tokens", "≥ 2.5",
            _ratio(result["ratio"]), _how(result),
        )  # fmt: skip


def _commands(results: dict[str, Result]) -> Iterator[Row]:
    for part, result in results.items():
        for command, found in result.items():
            if command != "machine":
                words = f"{found['processor']:.1f} s on a processor, {found['wall']:.1f} s"
                yield f"{part}: {command}", "", f"< {found['wanted']} s", words, _how(result)


def _report(results: dict[str, Result]) -> Iterator[Row]:
    for result in results.values():
        words = f"{result['processor_seconds']:.0f} s on a processor, {result['seconds']:.0f} s; "
        words += f"page of {result['page_bytes'] / 2**20:.1f} MiB"
        yield f"the report of {result['runs']:,} runs", "", "< 60 s", words, _how(result)
        if "browser" in result:
            times = {name: statistics.median(values) for name, values in result["browser"].items()}
            yield (
                "its page: opening, a filter", "headless Chromium", "< 2 s, < 0.1 s",
                f"{times['open_processor']:.0f} ms, {times['filter_processor']:.0f} ms on a processor; "
                f"{times['open']:.0f} ms, {times['filter']:.0f} ms", _how(result),
            )  # fmt: skip


def _gpu(results: dict[str, Result]) -> Iterator[Row]:
    for part, result in results.items():
        rate, wanted = result["harness_tokens_per_second"], result["wanted_tokens_per_second"]
        yield f"training on {result['gpu']}, {part} runs: tokens/s", "-", f"≥ {wanted:,.0f}", f"{rate:,.0f}", _how(result)
        for peer, ratio in result["ratio"].items():
            yield f"steps on {result['gpu']}, {part} runs", peer, "≥ 1", _ratio(ratio), _how(result)


def _soak(results: dict[str, Result]) -> Iterator[Row]:
    for result in results.values():
        counts = result["counts"]
        words = (
            f"equal: {counts['runs compared']:,} runs in {counts['rounds']:,} rounds, {result['seconds'] / 60:.0f} minutes; "
        )
        words += ", ".join(f"{count:,} {name}" for name, count in counts.items() if name not in ("rounds", "runs compared"))
        yield f"soak: {result['workers']} workers on one grid", "the undisturbed grid", "equal to the bit", words, _how(result)


_ROWS = {
    "training": _training, "quality": _quality, "overhead": _overhead, "grid": _grid, "memory": _memory,
    "tokenising": _tokenising, "startup": _startup, "decoding": _decoding, "rounds": _rounds, "commands": _commands,
    "report": _report, "gpu": _gpu, "soak": _soak,
}  # fmt: skip


def _machines(results: dict[str, dict[str, Result]]) -> list[str]:
    found: dict[str, list[str]] = {}
    for name, parts in results.items():
        for part, result in parts.items():
            machine = result["machine"]
            packages = ", ".join(f"{key} {value}" for key, value in sorted(machine["packages"].items()) if value)
            words = f"{machine['processor']}, {machine['cores']} cores, {machine['vectors']}; "
            words += f"Python {machine['python']}; {packages}"
            found.setdefault(words, []).append(f"{name}.{part}")
    return [f"- {words}" + (f" ({', '.join(parts)})" if len(found) > 1 else "") for words, parts in found.items()]
