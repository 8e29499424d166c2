"""Which question decides: the candidates in a sample, and the refusal where there is none or more than one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.config.ingest import IngestConfig
from jobs.contract.errors import BadData
from jobs.ingest.plan import VIEWS
from jobs.ingest.questions import Question, label_index, normalised, vote_reader
from jobs.ingest.reasons import TIE, DropError
from jobs.ingest.verdict import pair_vote
from jobs.ingest.views import RestView, View, flat_questions

if TYPE_CHECKING:
    from jobs.ingest.detect import Settings

Row = Mapping[str, Any]
_REMEDY = (
    "get a lossless file with `aios data argilla-pull`, or save the answer of"
    " GET /api/v1/datasets/ID/records?include=responses and ingest that"
)
_ALWAYS_ORDER_MIN = 20
"""From this many answers on, one single order everywhere means that the ranks are lost, not that A always wins."""


def choose_question(
    variant: str,
    rows: Sequence[Row],
    responses: tuple[str, ...],
    config: IngestConfig,
    settings: Settings,
    codes: Mapping[str, list[Any]],
) -> Question | None:
    """Return the question that compares the responses; None where nobody answered any.

    Raises:
        BadData: ranks or statuses are lost, labels cannot be read, or several questions could be meant.
    """
    view = VIEWS[variant](assume_submitted=True)
    if isinstance(view, RestView):
        view = RestView(assume_submitted=True, question_ids=dict(settings.question_ids))
    names = [f"ratings-{i}" for i in range(len(responses))] if variant == "generations" else None
    names = names or _question_names(variant, rows, settings)
    if config.corrected_question:
        return _correction(config.corrected_question, variant, names, rows, config)
    if variant == "generations":
        return Question(kind="ratings", names=tuple(names))
    read = _suggested if config.use_suggestions else _answered
    values = {name: read(view, rows, name) for name in names}
    if config.use_suggestions:
        values = {name: _decoded(name, found, codes, config) for name, found in values.items()}
    most = max(map(len, values.values()), default=0)
    # A question that hardly ever occurs is a damaged record or a misspelt key, not a rival of the one people answered.
    values = {name: seen for name, seen in values.items() if len(seen) * 50 >= most or name in config.question}
    found = [
        question
        for question in _candidates(values, responses, settings, config)
        if not config.question or question.names == config.question
    ]
    found = [_with_codes(question, codes) if config.use_suggestions else question for question in found]
    if config.use_suggestions and variant == "v2-flat":
        _refuse_codes(values, found, config)
    if config.question and not found and any(values.get(n) for n in config.question):
        found = [_forced(config, values, responses)]
    if config.question and set(config.question) - set(names):
        raise BadData(
            f"--question {' '.join(config.question)}: no such question", needed=f"one of {', '.join(names) or 'none'}"
        )
    if not found:
        _refuse_unreadable(values, responses, config)
        return None
    if len(found) > 1 and not (config.use_suggestions and _agree(found, view, rows, responses, codes)):
        listed = "; ".join(f"{' + '.join(q.names)} ({q.kind})" for q in found)
        raise BadData(
            f"more than one question could decide: {listed}",
            next_step=f"choose one, for instance --question {' --question '.join(found[0].names)}",
        )
    _check_statuses(variant, found[0], rows, config)
    _check_order(found[0], values[found[0].names[0]], config)
    return found[0]


def _correction(name: str, variant: str, names: list[str], rows: Sequence[Row], config: IngestConfig) -> Question:
    if name not in names:
        raise BadData(f"--corrected-question {name}: no such question", needed=f"one of {', '.join(names) or 'none'}")
    question = Question(kind="correction", names=(name,))
    _check_statuses(variant, question, rows, config)
    return question


def _check_order(question: Question, seen: list[Any], config: IngestConfig) -> None:
    """Refuse plain lists as rankings when all of them are alike, whatever the user believes."""
    if question.kind != "ranking" or config.ranking_order != "best-first":
        return
    orders = {tuple(map(str, value)) for value in seen if isinstance(value, list)}
    if len(orders) == 1 and len(seen) >= _ALWAYS_ORDER_MIN:
        raise BadData(
            f"all {len(seen)} rankings of {question.names[0]} have the same order {', '.join(*orders)}:"
            " that is the order of the options, not what people answered",
            needed="an export with ranks",
            next_step=_REMEDY,
        )


def _question_names(variant: str, rows: Sequence[Row], settings: Settings) -> list[str]:
    if settings.question_types:
        return list(settings.question_types)
    if variant == "v1-legacy":
        return ["annotation"]
    if variant == "v2-flat":
        return flat_questions([key for row in rows for key in row])
    names: dict[str, None] = {}
    for row in rows:
        if variant in ("v1", "v1-old"):
            names |= {k.removesuffix("-suggestion-metadata"): None for k in row if k.endswith("-suggestion-metadata")}
            names |= {k: None for k, v in row.items() if _is_answer_column(v)}
            continue
        if variant == "label-studio":
            results = [
                result
                for kind in ("annotations", "drafts", "predictions")
                for annotation in _listed(row.get(kind))
                for result in _listed(annotation.get("result") if isinstance(annotation, dict) else None)
            ]
            spoken = [result.get("from_name") for result in results if isinstance(result, dict)]
            names |= dict.fromkeys(name for name in spoken if isinstance(name, str))
            continue
        responses, suggestions = row.get("responses"), row.get("suggestions")
        answered = [{"values": responses}] if isinstance(responses, dict) else _listed(responses)
        for item in answered:
            values = item.get("values") if isinstance(item, dict) else None
            names |= dict.fromkeys(values if isinstance(values, dict) else ())
        names |= dict.fromkeys(suggestions if isinstance(suggestions, dict) else ())
        spoken = [s.get("question_name") for s in _listed(suggestions) if isinstance(s, dict)]
        names |= dict.fromkeys(name for name in spoken if isinstance(name, str))
    return list(names)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_answer_column(value: Any) -> bool:
    if isinstance(value, dict):
        return {"user_id", "value", "status"} <= value.keys()
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "user_id" in value[0]


def _answered(view: View, rows: Sequence[Row], name: str) -> list[Any]:
    values: list[Any] = []
    for row in rows:
        try:
            values += [v for v in view.answers(row, name)[2] if v is not None]
        except DropError:
            continue
    return values


def _suggested(view: View, rows: Sequence[Row], name: str) -> list[Any]:
    values: list[Any] = []
    for row in rows:
        try:
            value = view.suggestion(row, name)[0]
        except DropError:
            continue
        values += [value] if value is not None else []
    return values


def _decoded(name: str, values: list[Any], codes: Mapping[str, list[Any]], config: IngestConfig) -> list[Any]:
    labels = codes.get(f"{name}.suggestion")
    if labels is None:
        return values
    return [labels[v] for v in values if isinstance(v, int) and 0 <= v < len(labels) and labels[v] is not None]


def _with_codes(question: Question, codes: Mapping[str, list[Any]]) -> Question:
    labels = codes.get(f"{question.names[0]}.suggestion")
    if labels is None:
        return question
    return Question(kind=question.kind, names=question.names, labels=question.labels, codes=tuple(labels))


def _candidates(
    values: Mapping[str, list[Any]], responses: tuple[str, ...], settings: Settings, config: IngestConfig
) -> list[Question]:
    found: list[Question] = []
    ratings: dict[str, list[Any]] = {}
    for name, seen in values.items():
        kind = _kind(name, seen, responses, settings, config)
        if kind == "rating":
            ratings[name] = seen
        elif kind is not None:
            found.append(Question(kind=kind, names=(name,), labels=_label_map(config)))
    paired = _pair_ratings(list(ratings), responses)
    if paired:
        found.append(Question(kind="ratings", names=paired))
    if len(responses) == 2:
        found += [
            Question(kind="choice", names=(name,))
            for name, seen in ratings.items()
            if name not in (paired or ()) and _mostly_choices(seen, 0.6 if name in config.question else 0.95)
        ]
    return found


def _mostly_choices(seen: list[Any], share: float) -> bool:
    """Tell whether ratings are 0, 1 or 2, for a tie, the first and the second response; stray values may occur.

    Without a single 2, 0 and 1 may just as well number the two responses.
    """
    numbers = [v for v in seen if isinstance(v, int | float) and not isinstance(v, bool)]
    return 2 in numbers and sum(v in (0, 1, 2) for v in numbers) >= share * len(numbers)


def _kind(
    name: str, seen: list[Any], responses: tuple[str, ...], settings: Settings, config: IngestConfig
) -> str | None:
    declared = settings.question_types.get(name)
    if not seen or declared in ("text", "span", "multi_label_selection"):
        return None
    objects = sum(isinstance(v, dict) or (isinstance(v, list) and bool(v) and isinstance(v[0], dict)) for v in seen)
    if objects > len(seen) / 2:
        return "ranking" if _ranks(seen, responses) else None
    mapped = dict(_label_map(config))
    if sum(isinstance(v, int | float) and not isinstance(v, bool) for v in seen) > len(seen) / 2:
        return "label" if any(str(v) in mapped for v in seen) else "rating"
    if config.ranking_order == "best-first" and _lost_ranking(seen, responses):
        return "ranking"
    labels = {v for v in seen if isinstance(v, str)}
    return "label" if labels and _labels_readable(labels, seen, responses, config) else None


def _ranks(seen: list[Any], responses: tuple[str, ...]) -> bool:
    read = vote_reader(Question(kind="ranking", names=("",)), responses)
    good = 0
    for value in seen:
        try:
            good += read(value) is not None
        except DropError:
            continue
    return good > 0


def _lost_ranking(seen: list[Any], responses: tuple[str, ...]) -> bool:
    lists = [v for v in seen if isinstance(v, list)]
    return bool(lists) and sum(sorted(map(str, v)) == sorted(responses) for v in lists) > len(lists) / 2


def _labels_readable(labels: set[str], seen: list[Any], responses: tuple[str, ...], config: IngestConfig) -> bool:
    """Tell whether the labels name the responses: most answers readable, so that free text is not taken for votes."""
    mapped = dict(_label_map(config))
    if "0" in labels and not {"0", "1"} & mapped.keys():
        return False  # 0 and 1 may number the responses, or 0 may be the tie beside 1 and 2
    readable = {v for v in labels if v in mapped or label_index(v, responses) is not None}
    if not any(mapped.get(v) or label_index(v, responses) != TIE for v in readable):
        return False
    return sum(v in readable for v in seen if isinstance(v, str)) > len(seen) / 2


def _label_map(config: IngestConfig) -> tuple[tuple[str, str], ...]:
    return tuple(
        (k.strip(), v.strip()) for k, _, v in (p.partition("=") for p in (config.label_map or "").split(",") if p)
    )


def _pair_ratings(names: list[str], responses: tuple[str, ...]) -> tuple[str, ...] | None:
    """Match one rating question to each response: rating_a to response_a, generations-0-rating to generations-0."""
    matched: list[str] = []
    for response in responses:
        tail = re.sub(r"^.*_", "", normalised(response))
        fits = [n for n in names if normalised(response) in normalised(n)]
        fits = fits or [n for n in names if re.search(rf"(^|_){re.escape(tail)}(_|$)", normalised(n))]
        if len(fits) != 1:
            return None
        matched += fits
    return tuple(matched) if len(set(matched)) == len(responses) else None


def _forced(config: IngestConfig, values: Mapping[str, list[Any]], responses: tuple[str, ...]) -> Question:
    """Return the question that the user named although it did not look like one; refuse what cannot be read."""
    seen = values[config.question[0]]
    if len(config.question) == len(responses):
        return Question(kind="ratings", names=config.question)
    _refuse_unreadable({config.question[0]: seen}, responses, config)
    raise BadData(
        f"the answers to {config.question[0]} do not say which response is better: {_examples(seen)}",
        next_step="map the labels, for instance --label-map 'good=a,bad=b'",
    )


def _refuse_unreadable(values: Mapping[str, list[Any]], responses: tuple[str, ...], config: IngestConfig) -> None:
    for name, seen in values.items():
        if _lost_ranking(seen, responses) and config.ranking_order != "best-first":
            raise BadData(
                f"ranking_ranks_missing: the answers to the ranking question {name} are lists of names without ranks,"
                " always in the order of the options: Argilla's 2.x file exports lose what people answered"
                " (argilla-io/argilla#5712)",
                needed="an export with ranks",
                next_step=_REMEDY,
            )
    unread = {name: seen for name, seen in values.items() if seen and _may_decide(seen, responses)}
    if unread:
        listed = "; ".join(f"{name}: {_examples(seen)}" for name, seen in unread.items())
        raise BadData(
            f"no answer says which of {', '.join(responses)} is better ({listed})",
            next_step="say it with --question NAME --label-map 'LABEL=a,LABEL=b,LABEL=tie'",
        )


def _refuse_codes(values: Mapping[str, list[Any]], found: list[Question], config: IngestConfig) -> None:
    """Refuse integers that may be labels: `to_datasets()` recodes them and only Parquet keeps the names."""
    # Codes 0, 1, 2 look like the choice "tie, first, second" and are not: only paired ratings are beyond doubt.
    ratings = {name for question in found if question.kind == "ratings" for name in question.names}
    for name in config.question or values:
        seen = values.get(name)
        if seen and all(isinstance(v, int) for v in seen) and name not in ratings:
            raise BadData(
                f"the suggestions for {name} are integer codes whose names this file has lost",
                needed="the Parquet file of the same export, whose schema has them, or the to_json file",
                next_step="ingest that, or choose a rating question with --question",
            )


def _may_decide(seen: list[Any], responses: tuple[str, ...]) -> bool:
    """Tell whether answers may be meant as votes: numbers, or labels, which are few, short and come again and again;
    comments and lists of faults are none."""
    if any(isinstance(v, list) for v in seen):
        return any(name in responses for v in seen if isinstance(v, list) for name in v if isinstance(name, str))
    words = [v for v in seen if isinstance(v, str)]
    short = all(len(v.split()) <= 4 and not v.rstrip().endswith((".", "!", "?")) for v in words)
    return short and len(set(words)) * 4 <= len(words) if words else True


def _examples(seen: list[Any]) -> str:
    return ", ".join(sorted({repr(v)[:40] for v in seen})[:6])


def _agree(
    found: list[Question], view: View, rows: Sequence[Row], responses: tuple[str, ...], codes: Mapping[str, list[Any]]
) -> bool:
    """Tell whether all candidate suggestions say the same wherever they say something: then any of them will do."""
    readers = [vote_reader(question, responses) for question in found]
    for row in rows:
        verdicts = set()
        for question, read in zip(found, readers, strict=True):
            try:
                vote = pair_vote(read(suggested_value(view, row, question)), 0, 1)
            except DropError:
                continue
            verdicts |= {vote} - {None}
        if len(verdicts) > 1:
            return False
    return True


def suggested_value(view: View, row: Row, question: Question) -> Any:
    """Return what the suggestion says, labels decoded, or None."""
    if question.kind == "ratings":
        return tuple(view.suggestion(row, name)[0] for name in question.names)
    value = view.suggestion(row, question.names[0])[0]
    if question.codes is not None and isinstance(value, int):
        return question.codes[value] if 0 <= value < len(question.codes) else None
    return value


def _check_statuses(variant: str, question: Question, rows: Sequence[Row], config: IngestConfig) -> None:
    """Refuse answers whose status is lost: drafts and discarded ones would count as submitted."""
    if config.assume_submitted or config.use_suggestions:
        return
    if variant == "v2-flat":
        missing = not any(f"{question.names[0]}.responses.status" in row for row in rows)
    else:
        missing = variant == "v2-nested"
    if missing:
        raise BadData(
            f"response_statuses_missing: the answers to {question.names[0]} have no status, so drafts and discarded"
            " answers cannot be told from submitted ones",
            needed="a flat export (records.to_datasets()), or `aios data argilla-pull`",
            next_step="export again, or --assume-submitted to count every answer",
        )
