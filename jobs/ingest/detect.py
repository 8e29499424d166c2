"""Finds out from a sample what kind of export this is and which of its columns are prompt, responses and question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.config.ingest import IngestConfig
from jobs.contract.errors import BadData
from jobs.ingest.candidates import choose_question
from jobs.ingest.plan import VARIANT_NAMES, VIEWS, Plan
from jobs.ingest.questions import normalised
from jobs.ingest.reasons import DropError
from jobs.ingest.verdict import Policy
from jobs.ingest.views import flat_questions, split_flat_name

Row = Mapping[str, Any]
_PROMPT_ALIASES = ("prompt", "instruction", "question", "input", "request", "user_message", "conversation", "messages")
_SYSTEM_ALIASES = ("system", "system_prompt", "system_message")
_CHOSEN, _REJECTED = ("chosen", "chosen_response"), ("rejected", "rejected_response")
_RESPONSE_STEMS = (
    "response", "generation", "generations", "completion", "answer", "output", "candidate", "reply", "option", "text",
)  # fmt: skip
_NUMBERED = re.compile(r"^(.*?)_?(a|b|c|d|e|f|g|h|first|second|one|two|left|right|\d+)$")
_FIELDS_AT = {"v2-nested": "fields", "v2-rest": "fields", "v1-records": "fields", "v1-legacy": "inputs",
              "label-studio": "data"}  # fmt: skip
_ANSWER_KEYS = {"user_id", "value", "status"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What `.argilla/settings.json` beside the data says; empty where there is none."""

    question_types: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, list[Any]] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    question_ids: tuple[tuple[str, str], ...] = ()


def detect(rows: Sequence[Row], config: IngestConfig, settings: Settings, codes: Mapping[str, list[Any]]) -> Plan:
    """Decide how to read an export.

    Raises:
        BadData: the file cannot say who won, or more than one reading is possible; the message lists them.
    """
    if not rows:
        raise BadData("no readable record in the sample of the input", needed="an Argilla export")
    variant = config.variant if config.variant != "auto" else _variant(rows)
    if variant == "pairs":
        return _pairs_plan(rows, config)
    columns = _columns(variant, rows)
    names = list(settings.fields) or _field_names(variant, columns)
    responses = _original(names, columns, config) if config.corrected_question else _responses(names, columns, config)
    prompts = _prompts(names, columns, config, taken=set(responses))
    system = config.system_field or _first_alias(names, _SYSTEM_ALIASES)
    question = choose_question(variant, rows, responses, config, settings, codes)
    chat = any(isinstance(value, list) for name in (*prompts, *responses) for value in columns.get(name, ()))
    return Plan(
        variant=variant,
        prompt_fields=prompts,
        system_field=system,
        response_fields=responses,
        question=question,
        use_suggestions=config.use_suggestions,
        chat=chat or system is not None or config.format == "trl-chat",
        used=_used(variant, rows, (*prompts, *responses, *([system] if system else []))),
        columns=tuple(dict.fromkeys(key for row in rows for key in row)) if variant == "v2-flat" else (),
        id_field=config.id_field,
        assume_submitted=config.assume_submitted,
        best_first=config.ranking_order == "best-first",
        pairs=config.pairs,
        policy=Policy(
            min_annotators=config.min_annotators,
            min_agreement=config.min_agreement,
            rating_mean=config.rating_aggregate == "mean",
            min_rating_gap=config.min_rating_gap,
        ),
        question_ids=settings.question_ids,
    )


def _variant(rows: Sequence[Row]) -> str:
    keys = {key for row in rows for key in row}
    if any("fields" in row and isinstance(row.get("fields"), dict) for row in rows):
        lists = any(isinstance(row.get("responses"), list) for row in rows)
        if not lists:
            return "v2-nested"
        return "v1-records" if not keys & {"inserted_at", "updated_at", "dataset_id"} else "v2-rest"
    if any(isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list) for row in rows):
        return "label-studio"
    if any(split_flat_name(key) for key in keys):
        return "v2-flat"
    if {"annotation", "prediction"} & keys and "status" in keys and {"inputs", "text"} & keys:
        return "v1-legacy"
    for name, value in ((k, v) for row in rows for k, v in row.items()):
        if isinstance(value, list) and value and all(isinstance(v, dict) and v.keys() >= _ANSWER_KEYS for v in value):
            return "v1"
        if isinstance(value, dict) and value.keys() >= _ANSWER_KEYS:
            return "v1-old"
        if f"{name}-suggestion-metadata" in keys:
            return "v1"
    if _first_alias(keys, _CHOSEN) and _first_alias(keys, _REJECTED):
        return "pairs"
    if "generations" in keys and {"ratings", "rating"} & keys:
        return "generations"
    raise BadData(
        f"this is no preference export that we know: its columns are {', '.join(sorted(map(str, keys))[:20])}",
        needed=f"one of: {'; '.join(VARIANT_NAMES.values())}",
        next_step="name the columns with --variant, --prompt-field, --response-field or --chosen-field",
    )


def _columns(variant: str, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the values seen in each field (2.x nested, REST) or column (flat, 1.x), nulls left out."""
    columns: dict[str, list[Any]] = {}
    made = VIEWS[variant]() if variant in ("v1-legacy", "generations") else None
    for row in rows:
        try:
            fields = made.fields(row) if made else row.get(_FIELDS_AT[variant]) if variant in _FIELDS_AT else row
        except DropError:
            continue
        for name, value in fields.items() if isinstance(fields, dict) else ():
            seen = columns.setdefault(name, [])
            if value is not None:
                seen.append(value)
    return columns


def _field_names(variant: str, columns: Mapping[str, list[Any]]) -> list[str]:
    """Return the columns that may be fields: text or message lists, and neither a question nor an id."""
    names = list(columns)
    if variant == "v2-flat":
        names = [n for n in names if not split_flat_name(n) and n not in ("_server_id", "status")]
    elif variant == "generations":
        names = [n for n in names if n not in ("generations", "ratings", "rating")]
    elif variant in ("v1", "v1-old"):
        questions = {n.removesuffix("-suggestion-metadata") for n in names if n.endswith("-suggestion-metadata")}
        spoken = {f"{q}{s}" for q in questions for s in ("", "-suggestion", "-suggestion-metadata")}
        names = [n for n in names if n not in spoken | {"external_id", "metadata", "vectors"}]
    return [n for n in names if not columns[n] or any(_is_text(v) for v in columns[n])]


def _is_text(value: Any) -> bool:
    messages = isinstance(value, list) and any(isinstance(v, dict) and "user_id" not in v for v in value)
    return isinstance(value, str) or messages


def _first_alias(names: Any, aliases: Sequence[str]) -> str | None:
    for alias in aliases:
        for name in sorted(names):
            if normalised(name) == alias:
                return str(name)
    return None


def _responses(names: Sequence[str], columns: Mapping[str, Any], config: IngestConfig) -> tuple[str, ...]:
    if config.response_field:
        return _known(config.response_field, columns, "--response-field")
    groups: dict[str, list[str]] = {}
    for name in names:
        match = _NUMBERED.match(normalised(name))
        if match and normalised(name) not in _PROMPT_ALIASES:
            groups.setdefault(match[1], []).append(name)
    groups = {stem: sorted(found, key=_natural) for stem, found in groups.items() if len(found) >= 2}
    known = {stem: found for stem, found in groups.items() if stem in _RESPONSE_STEMS}
    for choice in (known, groups):
        if len(choice) == 1:
            return tuple(next(iter(choice.values())))
        if len(choice) > 1:
            raise BadData(
                f"several sets of fields could be the responses: {'; '.join(', '.join(g) for g in choice.values())}",
                next_step="name them with --response-field, once for each",
            )
    chosen, rejected = _first_alias(names, _CHOSEN), _first_alias(names, _REJECTED)
    if chosen and rejected:
        return chosen, rejected
    raise BadData(
        f"no two fields look like responses among {', '.join(names) or 'none'}",
        needed="two fields such as response_a and response_b",
        next_step="name them with --response-field, once for each",
    )


def _original(names: Sequence[str], columns: Mapping[str, Any], config: IngestConfig) -> tuple[str, ...]:
    """Return the one response that people corrected."""
    if config.response_field:
        return _known(config.response_field[:1], columns, "--response-field")
    prompts = (*config.prompt_field, *(n for n in names if normalised(n) in _PROMPT_ALIASES))
    found = [n for n in names if n not in prompts and n != "id" and any(_is_text(v) for v in columns.get(n, ()))]
    stems = [n for n in found if set(normalised(n).split("_")) & {*_RESPONSE_STEMS, "prediction"}]
    for choice in (stems, found):
        if len(choice) == 1:
            return (choice[0],)
    raise BadData(
        f"which field was corrected is not clear among {', '.join(found) or 'none'}",
        next_step="name it with --response-field",
    )


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _prompts(
    names: Sequence[str], columns: Mapping[str, list[Any]], config: IngestConfig, taken: set[str]
) -> tuple[str, ...]:
    if config.prompt_field:
        return _known(config.prompt_field, columns, "--prompt-field")
    free = [n for n in names if n not in taken]
    found = [n for alias in _PROMPT_ALIASES for n in free if normalised(n) == alias]
    if len(found) > 1:
        first = columns.get(found[0])
        found = [found[0]] if all(columns.get(n) == first for n in found) else found
    if len(found) == 1:
        return (found[0],)
    if found:
        raise BadData(
            f"several fields could be the prompt: {', '.join(found)}",
            next_step="name it with --prompt-field (repeat it to join several)",
        )
    raise BadData(
        f"no field looks like the prompt among {', '.join(free) or 'none'}",
        needed=f"one of {', '.join(_PROMPT_ALIASES)}",
        next_step="name it with --prompt-field",
    )


def _known(wanted: tuple[str, ...], columns: Mapping[str, Any], flag: str) -> tuple[str, ...]:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise BadData(f"{flag} {missing[0]}: no such field", needed=f"one of {', '.join(sorted(columns))}")
    return wanted


def _used(variant: str, rows: Sequence[Row], fields: tuple[str, ...]) -> frozenset[str]:
    keys = [key for row in rows for key in row]
    if variant == "v2-flat":
        spoken = {q + s for q in flat_questions(keys) for s in ("", ".suggestion", ".suggestion.score")}
        spoken |= {key for key in keys if split_flat_name(key)}
        vectors = {k for row in rows for k, v in row.items() if _is_vector(v)}
        return frozenset({*fields, *spoken, *vectors})
    return frozenset(fields)


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(v, float) for v in value)


def _pairs_plan(rows: Sequence[Row], config: IngestConfig) -> Plan:
    columns = _columns("pairs", rows)
    chosen = config.chosen_field or _first_alias(columns, _CHOSEN)
    rejected = config.rejected_field or _first_alias(columns, _REJECTED)
    if not chosen or not rejected:
        raise BadData("no columns chosen and rejected", next_step="name them with --chosen-field and --rejected-field")
    _known((chosen, rejected), columns, "--chosen-field or --rejected-field")
    prompts = _pairs_prompt(columns, config)
    texts = [v for name in (chosen, rejected) for v in columns[name]]
    system = config.system_field or (_first_alias(columns, _SYSTEM_ALIASES) if prompts else None)
    chat = config.format == "trl-chat" or any(
        isinstance(v, list) and _is_text(v) for v in [*texts, *(v for p in prompts for v in columns[p])]
    )
    marks = {str(v) for v in columns.get("status", ())}
    return Plan(
        variant="pairs",
        prompt_fields=prompts,
        system_field=system if system and any(columns[system]) else None,
        response_fields=(chosen, rejected),
        question=None,
        use_suggestions=False,
        chat=chat or bool(system and any(columns[system])),
        transcript=not prompts and all("\n\nAssistant:" in v for v in texts if isinstance(v, str)) and not chat,
        tie_column="status" if "tie" in marks and marks <= {"tie", "swapped", "unchanged"} else None,
        rating_fields=_rating_fields(columns),
        used=frozenset({*prompts, chosen, rejected, *([system] if system else [])}),
        id_field=config.id_field,
        policy=Policy(min_rating_gap=config.min_rating_gap),
    )


def _pairs_prompt(columns: Mapping[str, list[Any]], config: IngestConfig) -> tuple[str, ...]:
    if config.prompt_field:
        return _known(config.prompt_field, columns, "--prompt-field")
    found = [n for alias in _PROMPT_ALIASES for n in columns if normalised(n) == alias and columns[n]]
    if not found or normalised(found[0]) == "prompt" or len(found) == 1:
        return tuple(found[:1])
    # Where rows carry whole conversations, the prompt is in them and these columns only repeat it.
    if any(isinstance(v, list) for v in columns.get("chosen", ())):
        return ()
    raise BadData(f"several columns could be the prompt: {', '.join(found)}", next_step="name it with --prompt-field")


def _rating_fields(columns: Mapping[str, Any]) -> tuple[str, str] | None:
    spelled = {normalised(name): name for name in columns}
    for chosen, rejected in (
        ("chosen_rating", "rejected_rating"),
        ("rating_chosen", "rating_rejected"),
        ("chosen_avg_rating", "rejected_avg_rating"),
        ("chosen_score", "rejected_score"),
    ):
        if chosen in spelled and rejected in spelled:
            return spelled[chosen], spelled[rejected]
    return None
