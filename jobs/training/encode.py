"""From a preference row to token ids, the same in training, evaluation and scoring.

Untruncated, the ids are those of TRL 1.16's own preparation. Truncation is ours: TRL's reward trainer drops long pairs
and its DPO trainer cuts answers, end-of-text token included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract.errors import BadConfig

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPair:
    """One preference pair as token ids; both answers follow the same prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    truncated: bool


class PairEncoder:
    """Encodes rows with one tokenizer, template and length limit.

    Args:
        chat_template: auto or none; see `TrainingConfig.chat_template`.
        max_length: longest prompt plus answer, in tokens.
        truncation: which end an answer that is too long loses.
    """

    def __init__(self, tokenizer: Any, *, chat_template: str, max_length: int, truncation: str) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.templated = chat_template == "auto" and bool(tokenizer.chat_template)

    def encode(self, row: dict[str, Any]) -> EncodedPair:
        """Encode {prompt, chosen, rejected}, all strings or all message lists."""
        prompt, chosen = self._join(row["prompt"], row["chosen"])
        prompt_again, rejected = self._join(row["prompt"], row["rejected"])
        # Tokens may merge across the boundary: the prompt is what both sequences share with it.
        shared = min(common_prefix(prompt, chosen), common_prefix(prompt_again, rejected))
        return self._fit(prompt[:shared], chosen[shared:], rejected[shared:])

    def encode_answer(self, prompt: Any, answer: Any) -> tuple[list[int], list[int]]:
        """Encode one prompt and one answer, truncated as in training; returns prompt ids and answer ids."""
        prompt_ids, full = self._join(prompt, answer)
        shared = common_prefix(prompt_ids, full)
        pair = self._fit(prompt_ids[:shared], full[shared:], full[shared:])
        return pair.prompt_ids, pair.chosen_ids

    def encode_joined(self, rows: Sequence[tuple[Any, Any]]) -> list[list[int]]:
        """Encode prompts with their answers as whole sequences, all at once and without truncation.

        The ids are those of `encode_answer`, prompt and answer joined, five times as fast: the tokenizer gets all
        texts in one call.
        """
        if not rows:
            return []
        texts, plain = [], []
        for prompt, answer in rows:
            plain.append(isinstance(prompt, str) and isinstance(answer, str) and not self.templated)
            texts.append(self._joined_text(prompt, answer) if plain[-1] else self._chat_text(prompt, answer))
        if len(set(plain)) > 1:
            return [self._join(prompt, answer)[1] for prompt, answer in rows]
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=plain[0])["input_ids"]
        return encoded

    def _joined_text(self, prompt: str, answer: str) -> str:
        end = self.tokenizer.eos_token
        return prompt + (answer if answer.endswith(end) else answer + end)

    def _chat_text(self, prompt: Any, answer: Any) -> str:
        messages = self._messages(prompt, "user") + self._messages(answer, "assistant")
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))

    def encode_prompt(self, prompt: Any) -> list[int]:
        """Encode a prompt that a model shall answer; too long, it loses its start."""
        return self._prompt_ids(prompt)[-self.max_length :]

    def _prompt_ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str) and not self.templated:
            return self._text(prompt)
        return self._template(self._messages(prompt, "user"), generation=True)

    def _join(self, prompt: Any, answer: Any) -> tuple[list[int], list[int]]:
        """Return the ids of the prompt alone and of prompt and answer together."""
        if isinstance(prompt, str) and isinstance(answer, str) and not self.templated:
            return self._text(prompt), self._text(self._joined_text(prompt, answer))
        messages = self._messages(prompt, "user")
        full = self._template(messages + self._messages(answer, "assistant"), generation=False)
        return self._template(messages, generation=True), full

    def _messages(self, content: Any, role: str) -> list[Message]:
        if isinstance(content, str):
            return [{"role": role, "content": content}]
        if not self.templated:
            raise BadConfig(
                "the rows are chats, but no chat template may be used",
                needed="a tokenizer with a chat template and --chat-template auto",
                next_step="choose an instruct model, or ingest plain text",
            )
        return list(content)

    def _template(self, messages: list[Message], *, generation: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def _fit(self, prompt: list[int], chosen: list[int], rejected: list[int]) -> EncodedPair:
        """Shorten the prompt from its start first, then the answers, which keep their end-of-text token."""
        longest = max(len(chosen), len(rejected))
        if len(prompt) + longest <= self.max_length:
            return EncodedPair(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected, truncated=False)
        # A quarter of the room stays for the prompt: an answer to nothing teaches nothing.
        keep = min(len(prompt), max(self.max_length - longest, self.max_length // 4))
        prompt = prompt[len(prompt) - keep :]
        room = self.max_length - keep
        return EncodedPair(
            prompt_ids=prompt,
            chosen_ids=self._cut(chosen, room),
            rejected_ids=self._cut(rejected, room),
            truncated=True,
        )

    def _cut(self, answer: list[int], room: int) -> list[int]:
        if len(answer) <= room:
            return answer
        if self.truncation == "left":
            return answer[len(answer) - room :]
        end = self.tokenizer.eos_token_id
        last = len(answer) - 1 - answer[::-1].index(end) if end in answer else len(answer)
        tail = answer[last:][:room]
        return answer[: room - len(tail)] + tail


def common_prefix(first: list[int], second: list[int]) -> int:
    """Return how many leading ids two sequences share."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSplit:
    """The pairs of a split that can be learnt from, and what became of all its rows."""

    pairs: list[EncodedPair]
    kept: list[int]
    """Index of each pair's row in the file."""
    read: int
    truncated: int
    dropped: dict[str, int]

    def accounting(self) -> dict[str, Any]:
        """Return the row accounting as it stands in metrics.jsonl."""
        return {"rows_read": self.read, "rows_used": len(self.pairs), "rows_truncated": self.truncated} | {
            f"dropped_{reason}": count for reason, count in self.dropped.items()
        }


def encode_split(encoder: PairEncoder, rows: Iterable[dict[str, Any]]) -> EncodedSplit:
    """Encode rows and account for every one: read = used + dropped, checked here."""
    pairs: list[EncodedPair] = []
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    read = 0
    for index, row in enumerate(rows):
        read += 1
        pair = encoder.encode(row)
        if not pair.chosen_ids or not pair.rejected_ids:
            dropped["empty_answer"] += 1
        elif not pair.prompt_ids:
            dropped["empty_prompt"] += 1
        elif pair.chosen_ids == pair.rejected_ids:
            dropped["identical_after_truncation" if pair.truncated else "identical_tokens"] += 1
        else:
            pairs.append(pair)
            kept.append(index)
    assert read == len(pairs) + dropped.total(), "a row was lost"
    truncated = sum(pair.truncated for pair in pairs)
    return EncodedSplit(pairs=pairs, kept=kept, read=read, truncated=truncated, dropped=dict(dropped))
