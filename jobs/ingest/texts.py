"""Prompt and responses of a record: found by name, checked, brought to one shape, and left otherwise as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.ingest.plan import Plan
from jobs.ingest.reasons import DropError

Text = str | list[dict[str, Any]]
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class ChatSeenError(Exception):
    """A message list came up in an export that looked like plain text: all rows have to become messages."""


class Texts:
    """Reads prompt and responses as one plan says."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names = plan.response_fields
        self.single = plan.prompt_fields[0] if len(plan.prompt_fields) == 1 and not plan.system_field else None

    def read(self, fields: Mapping[str, Any]) -> tuple[Text, Sequence[Text]]:
        """Return prompt and responses, two or more; raises `DropError` with the reason why not."""
        if self.plan.chat:
            return self._chat(fields)
        if self.single is not None and len(self.names) == 2:
            # The common shape, without the detours below.
            prompt, first, second = fields.get(self.single), fields.get(self.names[0]), fields.get(self.names[1])
            if type(prompt) is str and type(first) is str and type(second) is str:
                if not prompt or prompt.isspace():
                    raise DropError("missing_prompt")
                if not first or not second or first.isspace() or second.isspace():
                    raise DropError("missing_response")
                return prompt, (first, second)
        return self._plain(fields)

    def _plain(self, fields: Mapping[str, Any]) -> tuple[Text, Sequence[Text]]:
        values = [fields.get(name) for name in self.names]
        if self.plan.variant == "pairs" and not self.plan.prompt_fields:
            responses = [_string(value, "missing_response") for value in values]
            return _transcripts(responses) if self.plan.transcript else _shared_beginning(responses)
        parts = [fields.get(name) for name in self.plan.prompt_fields]
        if any(isinstance(part, list) and part for part in parts + values):
            raise ChatSeenError
        said = [part for part in parts if isinstance(part, str)]
        if len(said) < sum(part is not None for part in parts):
            raise DropError("wrong_type")
        prompt = "\n\n".join(part for part in said if part.strip()) if len(said) > 1 else "".join(said)
        if not prompt.strip():
            raise DropError("missing_prompt")
        return prompt, [_string(value, "missing_response") for value in values]

    def _chat(self, fields: Mapping[str, Any]) -> tuple[Text, Sequence[Text]]:
        plan = self.plan
        answers = [_messages(fields.get(name), "assistant") for name in self.names]
        if not plan.prompt_fields:
            prompt, responses = _split_conversations(answers)
        else:
            prompt = [m for name in plan.prompt_fields for m in _messages(fields.get(name), "user")]
            prompt, responses = _without_prompt(prompt, answers)
        if plan.system_field:
            prompt = [m for m in _messages(fields.get(plan.system_field), "system") if _said(m)] + prompt
        # The last message is what is answered; earlier turns do not make up for a blank one.
        if not prompt or not _said(prompt[-1]) or prompt[-1]["role"] == "system":
            raise DropError("missing_prompt")
        if not all(any(_said(m) for m in response) for response in responses):
            raise DropError("missing_response")
        return prompt, responses


def _string(value: Any, missing: str) -> str:
    if value is None:
        raise DropError(missing)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        raise ChatSeenError
    if not isinstance(value, str):
        raise DropError("wrong_type")
    if not value.strip():
        raise DropError(missing)
    return value


def _said(message: Mapping[str, Any]) -> bool:
    return bool(message["content"].strip())


def _messages(value: Any, role: str) -> list[dict[str, Any]]:
    """Return a field as messages; nothing for an absent one. Keys that Arrow filled with null are left out."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise DropError("wrong_type")
    messages = []
    for item in value:
        if (
            not isinstance(item, dict)
            or not isinstance(item.get("role"), str)
            or not isinstance(item.get("content"), str)
        ):
            raise DropError("wrong_type")
        rest = {k: v for k, v in item.items() if v is not None and k not in ("role", "content")}
        messages.append({"role": item["role"], "content": item["content"], **rest})
    return messages


def _split_conversations(
    answers: list[list[dict[str, Any]]],
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Cut two whole conversations before their last message: what precedes it is the prompt, the same in both."""
    if not all(answers):
        raise DropError("missing_response")
    prompt = answers[0][:-1]
    if any(_compared(answer[:-1]) != _compared(prompt) for answer in answers[1:]):
        raise DropError("prompt_mismatch")
    return prompt, [answer[-1:] for answer in answers]


def _without_prompt(
    prompt: list[dict[str, Any]], answers: list[list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Take the prompt out of answers that repeat it; a longer conversation in them becomes the prompt."""
    if all(len(answer) <= 1 or answer[0]["role"] == "assistant" for answer in answers):
        return prompt, answers
    repeated, responses = _split_conversations(answers)
    said = [m for m in _compared(repeated) if m[0] != "system"]
    asked = [m for m in _compared(prompt) if m[0] != "system"]
    if not said or not asked or (said[-1] != asked[-1] and said[: len(asked)] != asked):
        raise DropError("prompt_mismatch")
    return (repeated if len(repeated) >= len(prompt) else prompt), responses


def _compared(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"].strip()) for m in messages]


def _transcripts(responses: list[str]) -> tuple[str, list[str]]:
    """Cut `Human: ... Assistant: ...` transcripts after the last `Assistant:`."""
    prompts, answers = [], []
    for text in responses:
        head, mark, answer = text.rpartition(_ASSISTANT)
        if not mark:
            raise DropError("prompt_mismatch")
        prompts.append(head + mark)
        answers.append(answer)
    if prompts[0].strip() != prompts[1].strip():
        raise DropError("prompt_mismatch")
    if not prompts[0].removesuffix(_ASSISTANT).replace(_HUMAN, "").strip():
        raise DropError("missing_prompt")
    if not all(answer.strip() for answer in answers):
        raise DropError("missing_response")
    return prompts[0], answers


def _shared_beginning(responses: list[str]) -> tuple[str, list[str]]:
    """Cut two texts where they begin to differ, back to a whole word: the longest common characters would eat the
    first letters that both answers share."""
    first, second = responses
    if first.strip() == second.strip():
        raise DropError("identical_responses")
    common = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        common += 1
    while common and not first[common - 1].isspace():
        common -= 1
    while common and first[common - 1].isspace():
        common -= 1
    if not first[:common].strip():
        raise DropError("missing_prompt")
    if not first[common:].strip() or not second[common:].strip():
        raise DropError("missing_response")
    return first[:common], [first[common:], second[common:]]


def canonical(text: Text) -> str:
    """Return what is compared and hashed: the text without surrounding blanks, messages by role and content."""
    if isinstance(text, str):
        return text.strip()
    return "\x1e".join(f"{m['role']}\x1f{m['content'].strip()}" for m in text)


def characters(text: Text) -> int:
    """Return the number of characters that people wrote."""
    return len(text) if isinstance(text, str) else sum(len(m["content"]) for m in text)
