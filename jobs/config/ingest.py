"""Settings of the step `ingest`: `aios data argilla-export`."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option
from jobs.contract.errors import BadConfig

DEDUP_FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """From an Argilla export to validated splits."""

    input: tuple[str, ...] = option(metavar="FILE", identity=False)
    """Export to read: .jsonl, .json or .parquet, also .gz, .zst, .bz2, or a dataset folder; a glob is expanded; repeat
    for several files. The content decides what it is, not the name."""

    output: str = option(metavar="DIR", identity=False)
    """Folder of the splits, usually training_data/curated_datasets/preferences; an existing set in it is replaced
    as a whole, and stays as it is if anything fails."""

    format: Literal["trl", "trl-chat"] = "trl"
    """Shape of the rows: trl keeps plain text as strings and chats as message lists, trl-chat makes all of them
    message lists."""

    train_ratio: float = option(0.9, min=0, max=1)
    """Share of the pairs in train.jsonl; the three ratios add up to 1. All pairs of one prompt lie in one split."""

    eval_ratio: float = option(0.05, min=0, max=1)
    """Share of the pairs in eval.jsonl, for curves during training."""

    test_ratio: float = option(0.05, min=0, max=1)
    """Share of the pairs in test.jsonl, kept for the verdict."""

    min_prompt_toks: int = option(3, min=0)
    """Drop a pair whose prompt is shorter, in tokens (about 4 characters each unless a tokenizer is given)."""

    max_prompt_toks: int = option(2048, min=1)
    """Drop a pair whose prompt is longer, in tokens."""

    dedup_by: str = "prompt+chosen+rejected"
    """Fields whose hash decides that two pairs are the same; the first one stays. none keeps all of them. The same
    pair with opposite winners is always dropped, all copies of it."""

    shuffle_seed: int = 42
    """Seed of the order of pairs and of the split they fall into; the same seed gives the same bytes."""

    variant: Literal[
        "auto",
        "v2-flat",
        "v2-nested",
        "v2-rest",
        "v1-records",
        "v1",
        "v1-old",
        "v1-legacy",
        "label-studio",
        "generations",
        "pairs",
    ] = "auto"
    """Kind of export; auto finds out from the content and says what it found."""

    question: tuple[str, ...] = option((), metavar="NAME")
    """Question that decides, where the export has several; for ratings one for each response, in their order."""

    corrected_question: str | None = option(None, metavar="NAME")
    """Text question in which people rewrote a response: what they wrote is chosen, the response itself (name it with
    --response-field where it is not clear) rejected; left unchanged counts as a tie."""

    label_map: str | None = option(None, metavar="LABEL=a,...")
    """What labels mean when their names do not say it: LABEL=a, =b, =tie, =drop or =FIELD, separated by commas."""

    prompt_field: tuple[str, ...] = option((), metavar="NAME")
    """Field of the prompt; several are joined by a blank line."""

    response_field: tuple[str, ...] = option((), metavar="NAME")
    """Field of a response, given once for each in the order of the options."""

    chosen_field: str | None = option(None, metavar="NAME")
    """Column of the better answer in an export of ready pairs."""

    rejected_field: str | None = option(None, metavar="NAME")
    """Column of the worse answer in an export of ready pairs."""

    system_field: str | None = option(None, metavar="NAME")
    """Field of a system prompt; it becomes the first message, and rows become message lists."""

    id_field: str | None = option(None, metavar="NAME")
    """Field with the record's id; else id, external_id or the server's id."""

    settings: str | None = option(None, metavar="FILE")
    """Argilla's settings.json of the dataset; else .argilla/settings.json beside the data is used."""

    assume_submitted: bool = False
    """Count answers without a status as submitted; drafts and discarded ones among them are then counted too."""

    use_suggestions: bool = False
    """Let a model's suggestion decide where no person submitted an answer; such pairs are marked and counted apart."""

    min_suggestion_score: float = option(0.0, min=0)
    """Ignore suggestions with a lower score, or with none if this is above 0."""

    ranking_order: Literal["none", "best-first"] = "none"
    """What the order of a ranking without ranks means; none refuses it, since Argilla 2.x writes the options' order."""

    rating_aggregate: Literal["vote", "mean"] = "vote"
    """How ratings are summed up: vote lets each annotator cast one vote, mean compares the mean ratings."""

    min_rating_gap: float = option(0.0, min=0)
    """Drop a pair whose ratings are closer than this."""

    min_annotators: int = option(1, min=1)
    """Drop a record with fewer submitted answers."""

    min_agreement: float = option(0.0, min=0, max=1)
    """Drop a record whose winner has a smaller share of the submitted answers."""

    on_tie: Literal["drop", "error"] = "drop"
    """What to do with a record on which the annotators tie: drop it and count it, or stop."""

    pairs: Literal["best-worst", "all", "adjacent"] = "best-worst"
    """Pairs made of a record with more than two responses."""

    on_bad_line: Literal["fail", "skip"] = "fail"
    """What to do with a line that is no JSON object: stop and name it, or skip it and count it."""

    encoding: str | None = option(None, metavar="NAME")
    """Encoding of the text where it is not UTF-8, for instance utf-16 or cp1252; Parquet has none."""

    max_chars: int | None = option(None, min=1)
    """Drop a pair of which prompt or an answer is longer, in characters."""

    anonymize: bool = False
    """Replace personal data (emails, phone numbers, names and more) by pseudonyms before anything is written."""

    anonymize_language: str = "en"
    """Language of the text, for names and places; needs the spaCy model of that language."""

    tokenizer: str | None = option(None, metavar="DIR")
    """Tokenizer for exact lengths: a model's folder, or the hub id of one that was fetched before. Without it a token
    counts as 4 characters."""

    write_drops: bool = option(False)
    """Also write drops.jsonl: the id and the reason of every record that is not in the splits."""

    workers: int | None = option(None, min=1, identity=False)
    """Processes; else one for each CPU that this process may use. The result is the same for any number."""

    overwrite: bool = option(False, identity=False)
    """Ingest again even if the folder already holds exactly this result."""

    json: bool = option(False, identity=False)
    """Print the report as JSON on stdout instead of a summary."""

    fail_under: float | None = option(None, min=0, max=1, identity=False)
    """Exit with 3, after publishing, when the share of valid records is below this (a run uses 0.90)."""

    fail_on: tuple[str, ...] = option((), metavar="REASON=SHARE", identity=False)
    """Exit with 3, after publishing, when more than this share of the records is dropped for a reason."""

    def __post_init__(self) -> None:
        total = self.train_ratio + self.eval_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise BadConfig(
                f"the ratios add up to {total:g}",
                needed="1",
                next_step="change --train-ratio, --eval-ratio, --test-ratio",
            )
        if self.min_prompt_toks > self.max_prompt_toks:
            raise BadConfig(
                f"--min-prompt-toks {self.min_prompt_toks} is above --max-prompt-toks {self.max_prompt_toks}"
            )
        unknown = set(self.dedup_fields) - set(DEDUP_FIELDS)
        if unknown:
            raise BadConfig(
                f"--dedup-by {self.dedup_by}: {', '.join(sorted(unknown))} is no field",
                needed="none, or prompt, chosen, rejected joined by +",
            )
        for pair in self.label_map.split(",") if self.label_map else ():
            if "=" not in pair:
                raise BadConfig(f"--label-map: '{pair}' has no =", needed="LABEL=a,LABEL=b,LABEL=tie")
        self.drop_limits()
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise BadConfig(f"--encoding {self.encoding} is unknown", needed="for instance utf-16 or cp1252") from None

    @property
    def dedup_fields(self) -> tuple[str, ...]:
        """Return the fields of --dedup-by; empty for none."""
        return () if self.dedup_by == "none" else tuple(part.strip() for part in self.dedup_by.split("+"))

    def drop_limits(self) -> dict[str, float]:
        """Return the gates of --fail-on as reason -> highest share."""
        limits = {}
        for gate in self.fail_on:
            reason, _, share = gate.partition("=")
            try:
                limits[reason] = float(share)
            except ValueError:
                raise BadConfig(f"--fail-on {gate}", needed="REASON=SHARE, for instance tie=0.2") from None
        return limits
