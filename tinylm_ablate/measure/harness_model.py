"""Adapter of our models to EleutherAI's harness (lm-evaluation-harness, Gao et al. 2021, doi 10.5281/zenodo.5371628).

Log-likelihoods equal those of the harness's ``hf`` model for the same folder in fp32: text is encoded by the folder's
tokenizer, including special tokens; inputs that are too long are truncated at the beginning; texts that are scored as a whole
are cut into windows of the context length. The same code scores PanGu-pi's blocks, which ``hf`` does not support.

This module needs the extra ``lm-eval``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer
from torch import Tensor

from tinylm_ablate import progress
from tinylm_ablate.arch.decoding import generate
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.huggingface import load_model, load_tokenizer
from tinylm_ablate.formats.json_file import read_object
from tinylm_ablate.formats.stored import open_stored
from tinylm_ablate.measure.scoring import Window, batches, most_tokens, padded

#: Sequences to generate at once.
_GENERATED = 32

#: Supported settings of generation; others would select tokens differently.
_GENERATION = ("until", "max_gen_toks", "do_sample", "temperature", "top_k")

#: A request of the harness: its source, tokens of the context, tokens of the continuation.
_Pair = tuple[Any, list[int], list[int]]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness publishes no types
    """A folder in Hugging Face's layout, the ``model`` of a run, or a GGUF file, with the harness's interface.

    Attributes:
        decoder: The model, with fp32 weights.
        max_length: Context length, from ``config.json``.
        requests: Number of requests by task.
        cut: Number of requests by task that were longer than ``max_length`` and truncated at the beginning.

    Args:
        folder: The model.
        device: Device to compute on.

    Raises:
        UserError: The model or tokenizer does not exist, or has no token to begin a text with.
    """

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__()
        self.decoder = load_model(folder).requires_grad_(False).eval().to(device)
        self.tokenizer: Tokenizer = load_tokenizer(folder)[0]
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._device = torch.device(device)
        self.max_length = open_stored(folder).context_length or 2048
        ends, begins = (_special_token(folder, self.tokenizer, name) for name in ("eos", "bos"))
        first = ends if begins is None else begins
        if first is None:
            raise UserError(
                f"{folder}: neither tokenizer_config.json nor config.json has a token that begins or ends a text; the "
                "harness needs one to score the first token of a text: set eos_token_id in config.json"
            )
        self._first: int = first
        self._end: int = first if ends is None else ends
        self._end_text: str = self.tokenizer.decode([self._end], skip_special_tokens=False)
        self._first_text: str = self.tokenizer.decode([self._first], skip_special_tokens=False)
        self.requests: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()

    @property
    def eot_token_id(self) -> int:
        """The token after a text."""
        return self._end

    @property
    def prefix_token_id(self) -> int:
        """The token before a text."""
        return self._first

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Encode a text, with the tokenizer's special tokens around it unless the text contains the first of them."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._first_text)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens).ids)

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the sum of log-probabilities of each continuation in nats, and whether greedy generation would produce it.

        Args:
            requests: Each with ``args`` (context, continuation). An empty context is the token before a text; an empty
                continuation has probability 1.
            disable_tqdm: Whether to draw no bar, whatever our own setting.
        """
        pairs = [(request.args, *self._pair(*request.args)) for request in requests]
        for request, (_, context, continuation) in zip(requests, pairs, strict=True):
            self._count(request, len(context) + len(continuation) > self.max_length + 1)
        return self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text in nats: every token is predicted once, in windows of ``max_length``."""
        windows: list[_Pair] = []
        counts: list[int] = []
        for request in requests:
            (text,) = request.args
            cut = get_rolling_token_windows(self.tok_encode(text), self._first, self.max_length, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in cut]
            counts.append(len(windows))
            self._count(request, False)
        scores = [score for score, _ in self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)]
        return [sum(scores[start:stop]) for start, stop in zip([0, *counts], counts, strict=False)]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate the continuation of each prompt, up to the first of the task's stop texts.

        A prompt that leaves too little of the context for ``max_gen_toks`` is truncated at the beginning. At most half of the
        context is generated, so that a part of the prompt remains (the harness's model stops with an error in this case).

        Raises:
            UserError: A task requires an unsupported way to select tokens.
        """
        texts = [""] * len(requests)
        groups: dict[tuple[str, int], list[tuple[int, list[int]]]] = {}
        for index, request in enumerate(requests):
            prompt, settings = request.args
            kwargs = self._generation(request.task_name, settings)
            room = self.max_length - kwargs["max_gen_toks"]
            tokens = self.tok_encode(prompt) or [self._first]
            self._count(request, len(tokens) > room)
            tokens = tokens[-room:]
            groups.setdefault((json.dumps(kwargs, sort_keys=True), len(tokens)), []).append((index, tokens))
        with progress.bar(total=len(requests), description="continuations", unit="text", quiet=disable_tqdm) as bar:
            for (settings, _), prompts in groups.items():
                for start in range(0, len(prompts), _GENERATED):
                    part = prompts[start : start + _GENERATED]
                    for (index, _), text in zip(part, self._continue([t for _, t in part], json.loads(settings)), strict=True):
                        texts[index] = text
                    bar.update(len(part))
        return texts

    def _count(self, request: Instance, cut: bool) -> None:
        self.requests[request.task_name or ""] += 1
        self.cut[request.task_name or ""] += cut

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context, at least one, and of its continuation."""
        if context:
            before, after = self._encode_pair(context, continuation)
            # If their boundary is inside a token, the context may have no tokens of its own.
            return list(before) or [self._first], list(after)
        after = self.tok_encode(continuation, add_special_tokens=False)
        return (after[:1], after[1:]) if after[:1] == [self._first] else ([self._first], after)

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[_Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Score continuations. Equal inputs, such as those of a question with four letters as answers, are computed once."""
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        by_input: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            if continuation:
                inputs = (*context, *continuation)[-(self.max_length + 1) : -1]
                by_input.setdefault(inputs, []).append((index, continuation[-len(inputs) :]))
        # A window's targets are not used, so its sequence needs one more arbitrary token.
        sequences = [(*inputs, 0) for inputs in by_input]
        answers = list(by_input.values())
        windows = sorted((Window(i, 0, len(s) - 1) for i, s in enumerate(sequences)), key=lambda window: -window.length)
        total = sum(window.length for window in windows)
        with progress.bar(total=total, description="log-likelihoods", unit="tok", quiet=disable_tqdm) as bar:
            for batch in batches(windows, most_tokens(self._device, self.decoder.shape.vocab_size)):
                hidden = self.decoder.hidden(padded(batch, sequences)[0].to(self._device))
                for row, window in enumerate(batch):
                    self._score(hidden[row, : window.length], answers[window.sequence], results)
                bar.update(sum(window.length for window in batch))
        return results

    def _score(self, hidden: Tensor, answers: Iterable[tuple[int, list[int]]], results: list[tuple[float, bool]]) -> None:
        """Score continuations of one input, (T, width): each ends after its last token."""
        answers = list(answers)
        longest = max(len(tokens) for _, tokens in answers)
        logits = F.linear(hidden[-longest:], self.decoder.head_weight).float()
        scores, likeliest = logits.log_softmax(dim=-1), logits.argmax(dim=-1)
        for index, tokens in answers:
            targets = torch.tensor(tokens, device=hidden.device)
            chosen = scores[-len(tokens) :].gather(1, targets[:, None])
            results[index] = float(chosen.cpu().double().sum()), bool((likeliest[-len(tokens) :] == targets).all())

    def _generation(self, task: str | None, settings: dict[str, Any]) -> dict[str, Any]:
        """Normalize a task's settings of generation, within the context.

        Raises:
            UserError: A setting is not supported.
        """
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(settings, 256))
        idle = {"top_p", "top_k", "temperature"} if not kwargs["do_sample"] else set()
        wrong = [key for key in kwargs if key not in {*_GENERATION, *idle}]
        if wrong:
            raise UserError(f"task {task}: generation_kwargs.{wrong[0]}={kwargs[wrong[0]]}: allowed: {', '.join(_GENERATION)}")
        return {
            "until": handle_stop_sequences(kwargs["until"], eos=self._end_text),
            "max_gen_toks": max(1, min(kwargs["max_gen_toks"], self.max_length // 2)),
            "temperature": float(kwargs.get("temperature") or 0.0) if kwargs["do_sample"] else 0.0,
            "top_k": kwargs.get("top_k") if kwargs["do_sample"] else None,
        }

    def _continue(self, prompts: Sequence[Sequence[int]], settings: dict[str, Any]) -> list[str]:
        """Generate after prompts of equal numbers of tokens, and truncate at the first stop text."""
        prompt = torch.tensor(prompts, device=self._device)
        until = [text for text in settings["until"] if text]
        tokens = generate(
            self.decoder, prompt, settings["max_gen_toks"], temperature=settings["temperature"], top_k=settings["top_k"],
            end_of_text=self._end, ended=self._stops(prompt.shape[1], until),
        )  # fmt: skip
        texts = self.tokenizer.decode_batch(tokens[:, prompt.shape[1] :].tolist(), skip_special_tokens=True)
        return [postprocess_generated_text(text, until, None) for text in texts]

    def _stops(self, start: int, until: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """Return a function that reports which sequences, (B, T), have a stop text after their prompt of ``start`` tokens."""
        # In a byte-level vocabulary, a byte is at most one token, and the text may begin within one.
        most = max((len(text.encode()) for text in until), default=0) + 4

        def ended(tokens: Tensor) -> Tensor:
            tails = self.tokenizer.decode_batch(
                tokens[:, max(start, tokens.shape[1] - most) :].tolist(), skip_special_tokens=False
            )
            return torch.tensor([any(text in tail for text in until) for tail in tails], device=tokens.device)

        return ended


def _special_token(folder: Path, tokenizer: Tokenizer, name: str) -> int | None:
    """Return the id of the token "bos" or "eos", from ``tokenizer_config.json`` or else ``config.json``."""
    if not folder.is_dir():  # a GGUF file
        return load_tokenizer(folder)[1]
    path = folder / "tokenizer_config.json"
    entry = read_object(path).get(f"{name}_token") if path.is_file() else None
    text = entry.get("content") if isinstance(entry, dict) else entry
    if isinstance(text, str) and (number := tokenizer.token_to_id(text)) is not None:
        return int(number)
    number = read_object(folder / "config.json").get(f"{name}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) else None
