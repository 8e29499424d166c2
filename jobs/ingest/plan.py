"""The decision how an export is read: made once from a sample and the settings, printed, written into the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.ingest.questions import Question
from jobs.ingest.verdict import Policy
from jobs.ingest.views import (
    FlatView,
    GenerationsView,
    LabelStudioView,
    LegacyView,
    NestedView,
    RestView,
    V1View,
    View,
)

VIEWS: dict[str, type[View]] = {
    "v2-flat": FlatView,
    "v2-nested": NestedView,
    "v2-rest": RestView,
    "v1-records": RestView,
    "v1": V1View,
    "v1-old": V1View,
    "v1-legacy": LegacyView,
    "label-studio": LabelStudioView,
    "generations": GenerationsView,
    "pairs": View,
}
VARIANT_NAMES = {
    "v2-flat": "Argilla 2.x flat export (to_datasets, to_list(flatten=True), to_hub)",
    "v2-nested": "Argilla 2.x nested export (to_json, to_list, to_dict, to_disk)",
    "v2-rest": "Argilla 2.x records with ranks and statuses (REST answer, argilla-pull, model_dump)",
    "v1-records": "Argilla 1.x records (record.json())",
    "v1": 'Argilla 1.x dataset (format_as("datasets"), push_to_huggingface)',
    "v1-old": "Argilla 1.13 or older dataset (answers as a struct of lists)",
    "v1-legacy": "Argilla 1.x text classification or Text2Text dataset (annotation, status Validated)",
    "label-studio": "Label Studio JSON export of a pairwise or choices project",
    "generations": "distilabel generations with ratings",
    "pairs": "ready pairs (chosen and rejected columns)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How the records of an export become pairs; small, and the same in every worker."""

    variant: str
    prompt_fields: tuple[str, ...]
    """Empty where the prompt is part of chosen and rejected."""
    system_field: str | None
    response_fields: tuple[str, ...]
    """The responses compared, in the order of the first and second option; chosen and rejected for ready pairs."""
    question: Question | None
    """None for ready pairs, or where nothing was asked that decides."""
    use_suggestions: bool
    chat: bool
    """Rows are message lists."""
    transcript: bool = False
    """chosen and rejected are `Human: ... Assistant: ...` transcripts, cut at the last answer."""
    tie_column: str | None = None
    """Column of ready pairs whose value `tie` says that neither is better."""
    rating_fields: tuple[str, str] | None = None
    used: frozenset[str] = frozenset()
    """Columns that are not metadata."""
    columns: tuple[str, ...] = ()
    """Columns of a flat export, in the order in which they were seen."""
    id_field: str | None = None
    assume_submitted: bool = False
    best_first: bool = False
    pairs: str = "best-worst"
    policy: Policy = field(default_factory=Policy)
    question_ids: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def view(self) -> View:
        """Return the window onto records of this variant."""
        settings: dict[str, Any] = {"assume_submitted": self.assume_submitted, "id_field": self.id_field}
        if VIEWS[self.variant] is RestView:
            settings["question_ids"] = dict(self.question_ids)
        return VIEWS[self.variant](**settings)

    def describe(self) -> dict[str, Any]:
        """Return the decision for people and for the report."""
        question = self.question
        return {
            "variant": self.variant,
            "variant_text": VARIANT_NAMES[self.variant],
            "prompt": list(self.prompt_fields) or "shared beginning of chosen and rejected",
            "system": self.system_field,
            "responses": list(self.response_fields),
            "question": list(question.names) if question else None,
            "question_kind": question.kind if question else None,
            "rows": "messages" if self.chat else "text",
            "answers": "suggestions" if self.use_suggestions else ("people" if question else None),
            "assume_submitted": self.assume_submitted,
        }
