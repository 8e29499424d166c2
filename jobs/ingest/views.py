"""The export variants seen through one window: fields, answers, suggestion, ids and metadata of a record.

Answers come as three parallel lists: users, statuses, values. One view for each spelling in which Argilla has
written records; what a field or a value means is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from jobs.ingest.reasons import DropError

Answers = tuple[list[Any], list[Any], list[Any]]
NO_ANSWERS: Answers = ([], [], [])
FLAT_SUFFIXES = (
    ".responses.users",
    ".responses.status",
    ".responses",
    ".suggestion.score",
    ".suggestion.agent",
    ".suggestion",
)
"""Longest first: a name may contain dots itself."""
_LEGACY_STATUSES = {"Validated": "submitted", "Discarded": "discarded", "Default": "draft", "Edited": "draft"}


class View:
    """Access to the records of one variant; the base class reads rows whose columns are the fields."""

    reserved: frozenset[str] = frozenset()

    def __init__(self, *, assume_submitted: bool = False, id_field: str | None = None) -> None:
        self.assume_submitted = assume_submitted
        self.id_field = id_field
        self._other_names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the mapping in which prompt and responses are found by name."""
        return row

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        """Return users, statuses and values of all answers to a question."""
        raise NotImplementedError

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        """Return value and score of the suggestion for a question; (None, None) without one."""
        return None, None

    def ids(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the record's own id and the server's."""
        if self.id_field:
            return row.get(self.id_field), row.get("_server_id")
        external = row.get("id")
        return (row.get("external_id") if external is None else external), row.get("_server_id")

    def metadata(self, row: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
        """Return what else the record says, without the fields in `used`."""
        return {name: row[name] for name in self.other_names(tuple(row), used)}

    def other_names(self, columns: tuple[str, ...], used: frozenset[str]) -> tuple[str, ...]:
        """Return the columns that are metadata; rows of one export rarely differ in their columns."""
        names = self._other_names.get(columns)
        if names is None:
            names = tuple(name for name in columns if name not in used and name not in self.reserved)
            if len(self._other_names) < 1000:
                self._other_names[columns] = names
        return names


class FlatView(View):
    """2.x `to_datasets()`, `to_list(flatten=True)`, `to_hub`: columns `Q.responses`, `.users`, `.status`."""

    reserved = frozenset(("id", "_server_id", "status"))

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        values = row.get(question + ".responses")
        if values is None:
            return NO_ANSWERS
        users, statuses = row.get(question + ".responses.users"), row.get(question + ".responses.status")
        if statuses is None and self.assume_submitted and isinstance(values, list):
            statuses = ["submitted"] * len(values)
        if users is None and isinstance(values, list):
            users = list(range(len(values)))
        if not (isinstance(values, list) and isinstance(users, list) and isinstance(statuses, list)):
            raise DropError("malformed_responses")
        return users, statuses, values

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        return row.get(question + ".suggestion"), row.get(question + ".suggestion.score")


class NestedView(View):
    """2.x `to_json`, `to_list()`, `to_dict`: `responses` is an object of lists without statuses."""

    def fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return _object(row.get("fields"))

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        items = _object(row.get("responses") or {}).get(question)
        if items is None:
            return NO_ANSWERS
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DropError("malformed_responses")
        default = "submitted" if self.assume_submitted else None
        return (
            [item.get("user_id") for item in items],
            [item.get("status", default) for item in items],
            [item.get("value") for item in items],
        )

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        found = _object(row.get("suggestions") or {}).get(question)
        return (found.get("value"), found.get("score")) if isinstance(found, dict) else (None, None)

    def metadata(self, row: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
        metadata = row.get("metadata")
        if isinstance(metadata, str):
            return _json_object(metadata)
        return dict(metadata) if isinstance(metadata, dict) else {}


class RestView(NestedView):
    """The REST answer, `record._model.model_dump()` and v1 `record.json()`: `responses` is a list, ranks are there."""

    def __init__(self, *, question_ids: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.question_ids = dict(question_ids or {})

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        responses = row.get("responses") or []
        users, statuses, values = [], [], []
        if not isinstance(responses, list):
            raise DropError("malformed_responses")
        for response in responses:
            if not isinstance(response, dict):
                raise DropError("malformed_responses")
            answered = response.get("values") or {}
            if not isinstance(answered, dict):
                raise DropError("malformed_responses")
            if question not in answered:
                continue
            answer = answered[question]
            users.append(response.get("user_id"))
            statuses.append(response.get("status"))
            values.append(answer.get("value") if isinstance(answer, dict) and "value" in answer else answer)
        return users, statuses, values

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        found = row.get("suggestions") or []
        if isinstance(found, dict):
            return super().suggestion(row, question)
        for item in found if isinstance(found, list) else ():
            if not isinstance(item, dict):
                continue
            name = item.get("question_name") or self.question_ids.get(str(item.get("question_id")))
            if name == question:
                return item.get("value"), item.get("score")
        return None, None

    def ids(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        if self.id_field:
            return row.get(self.id_field), row.get("id")
        external = row.get("external_id")
        return (row.get("id") if external is None else external), row.get("id")


class V1View(View):
    """1.x `format_as("datasets")`: column `Q` is a list of {user_id, value, status}; <= 1.13 a struct of lists."""

    reserved = frozenset(("external_id", "metadata", "vectors"))

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        items = row.get(question)
        if items is None:
            return NO_ANSWERS
        if isinstance(items, dict):
            users, statuses, values = (items.get(key) for key in ("user_id", "status", "value"))
            if values is None:
                return NO_ANSWERS
            if isinstance(values, dict):  # a ranking as struct of lists, turned inside out once more
                columns = [values.get("rank") or [], values.get("value") or []]
                values = [{"rank": rank, "value": names} for rank, names in zip(*columns, strict=False)]
            if not all(isinstance(x, list) for x in (users, statuses, values)):
                raise DropError("malformed_responses")
            return list(users or []), list(statuses or []), list(values)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DropError("malformed_responses")
        return (
            [item.get("user_id") for item in items],
            [item.get("status") for item in items],
            [item.get("value") for item in items],
        )

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        about = row.get(question + "-suggestion-metadata")
        return row.get(question + "-suggestion"), about.get("score") if isinstance(about, dict) else None

    def metadata(self, row: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
        metadata = row.get("metadata")
        return (
            _json_object(metadata)
            if isinstance(metadata, str)
            else dict(metadata)
            if isinstance(metadata, dict)
            else {}
        )


class LabelStudioView(View):
    """Label Studio's JSON export of a pairwise or choices project: one task with all its annotations."""

    def fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return _object(row.get("data"))

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        users: list[Any] = []
        statuses: list[Any] = []
        values: list[Any] = []
        for kind in ("annotations", "drafts"):
            for annotation in row.get(kind) or ():
                for result in _object(annotation).get("result") or ():
                    if _object(result).get("from_name") == question:
                        users.append(_person(annotation, len(users)))
                        cancelled = "discarded" if annotation.get("was_cancelled") else "submitted"
                        statuses.append("draft" if kind == "drafts" else cancelled)
                        values.append(_selected(_object(result.get("value") or {})))
        return users, statuses, values

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        for prediction in row.get("predictions") or ():
            for result in _object(prediction).get("result") or ():
                if _object(result).get("from_name") == question:
                    return _selected(_object(result.get("value") or {})), prediction.get("score")
        return None, None

    def metadata(self, row: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
        data, meta = row.get("data"), row.get("meta")
        rest = {k: v for k, v in data.items() if k not in used} if isinstance(data, dict) else {}
        return rest | (meta if isinstance(meta, dict) else {})


class LegacyView(View):
    """1.x `DatasetForTextClassification.to_datasets()` and Text2Text: one annotation a record, fields in `inputs`."""

    def fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        inputs = row.get("inputs")
        if isinstance(inputs, dict):
            return inputs
        return {"prompt": row.get("text"), "prediction": _best(row)[0]}

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        value = row.get("annotation")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None:
            return NO_ANSWERS
        status = _LEGACY_STATUSES.get(str(row.get("status")))
        if status is None:
            raise DropError("malformed_responses")
        return [str(row.get("annotation_agent"))], [status], [value]

    def suggestion(self, row: Mapping[str, Any], question: str) -> tuple[Any, Any]:
        return _best(row)

    def metadata(self, row: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
        metadata = row.get("metadata")
        return dict(metadata) if isinstance(metadata, dict) else {}


def _best(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return label or text, and score, of the surest prediction."""
    found = [p for p in row.get("prediction") or () if isinstance(p, dict)]
    if not found:
        return None, None
    best = max(found, key=lambda p: p["score"] if isinstance(p.get("score"), int | float) else 0.0)
    return best.get("label", best.get("text")), best.get("score")


class GenerationsView(View):
    """distilabel before its pairs are made: a list of generations and the ratings that a judge gave them."""

    reserved = frozenset(("id", "generations", "ratings", "rating"))

    def fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = row.get("generations")
        if not isinstance(texts, list):
            raise DropError("missing_response" if texts is None else "wrong_type")
        return {**row, **{f"generations-{i}": text for i, text in enumerate(texts)}}

    def answers(self, row: Mapping[str, Any], question: str) -> Answers:
        ratings = row.get("ratings", row.get("rating"))
        position = int(question.rpartition("-")[2])
        if not isinstance(ratings, list) or position >= len(ratings):
            return NO_ANSWERS
        return ["judge"], ["submitted"], [ratings[position]]


def _person(annotation: Mapping[str, Any], fallback: int) -> Any:
    person = annotation.get("completed_by", annotation.get("user"))
    person = person.get("id", person.get("email")) if isinstance(person, dict) else person
    return f"unknown {fallback}" if person is None else str(person)


def _selected(value: Mapping[str, Any]) -> Any:
    """Return the side of a pairwise answer, or the one choice; None for anything else."""
    choices = value.get("choices")
    if isinstance(choices, list) and len(choices) == 1:
        return choices[0]
    return value.get("selected")


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DropError("malformed_responses")
    return value


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"metadata": text}
    return value if isinstance(value, dict) else {"metadata": value}


def split_flat_name(column: str) -> tuple[str, str] | None:
    """Split a flat column into question and suffix; None for a field, a metadata key or an id."""
    for suffix in FLAT_SUFFIXES:
        if column.endswith(suffix) and len(column) > len(suffix):
            return column[: -len(suffix)], suffix
    return None


def flat_questions(columns: Sequence[str]) -> list[str]:
    """Return the questions that flat columns speak of, in order of appearance."""
    found = (split_flat_name(column) for column in columns)
    return list(dict.fromkeys(name[0] for name in found if name is not None))
