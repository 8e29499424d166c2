"""Personal data becomes pseudonyms before anything is written: Presidio finds it, a number names it.

The same value gets the same pseudonym in prompt, chosen and rejected of a record, and another one in another record,
so that rows cannot be joined on a person. Patterns (emails, phones, cards, IBANs, IP addresses) need no model; names
and places need the spaCy model of the language. No pattern or model finds everything: docs/ingestion.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import Any

from jobs.contract.errors import EnvironmentUnfit
from jobs.ingest.pairs import Pair
from jobs.ingest.texts import Text

PATTERNS = ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS")
NAMES = ("PERSON", "LOCATION")
_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
_LEAST_SCORE = 0.35
"""Presidio scores a phone number without the word for it beside it 0.4; below lie dates and order numbers."""

Names = dict[tuple[str, str], str]
"""(kind, value) -> pseudonym, for one record."""


class Anonymizer:
    """Replaces personal data in the texts of pairs; one for each process, since loading takes seconds."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._engine = make_engine(language)
        self.entities = [*PATTERNS, *(NAMES if model_name(language) else ())]

    def pair(self, pair: Pair, names: Names, counts: Counter[str]) -> Pair:
        """Return the pair without personal data, and count what was found."""
        texts = [self._text(text, names, counts) for text in (pair.prompt, pair.chosen, pair.rejected)]
        return replace(pair, prompt=texts[0], chosen=texts[1], rejected=texts[2])

    def value(self, value: Any, names: Names, counts: Counter[str]) -> Any:
        """Return metadata without personal data, whatever its shape."""
        if isinstance(value, str):
            return self._string(value, names, counts)
        if isinstance(value, dict):
            return {key: self.value(inner, names, counts) for key, inner in value.items()}
        return [self.value(inner, names, counts) for inner in value] if isinstance(value, list) else value

    def _text(self, text: Text, names: Names, counts: Counter[str]) -> Text:
        if isinstance(text, str):
            return self._string(text, names, counts)
        return [{"role": m["role"]} | self.value({k: m[k] for k in m if k != "role"}, names, counts) for m in text]

    def _string(self, text: str, names: Names, counts: Counter[str]) -> str:
        found = self._engine.analyze(
            text=text, language=self.language, entities=self.entities, score_threshold=_LEAST_SCORE
        )
        pieces, position = [], 0
        # Longer and surer finds win over those that overlap them.
        for entity in _without_overlaps(found):
            counts[entity.entity_type] += 1
            value = " ".join(text[entity.start : entity.end].split()).casefold()
            name = names.setdefault((entity.entity_type, value), f"<{entity.entity_type}_{len(names) + 1}>")
            pieces += [text[position : entity.start], name]
            position = entity.end
        return "".join([*pieces, text[position:]])


def hidden_id(value: Any) -> Any:
    """Return an id or annotator's name; one with an email address becomes a hash, which still tells two apart."""
    if isinstance(value, str) and "@" in value:
        return f"hidden-{sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return value


def _without_overlaps(found: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for entity in sorted(found, key=lambda e: (-e.score, e.start - e.end, e.start, e.entity_type)):
        if all(entity.end <= other.start or entity.start >= other.end for other in kept):
            kept.append(entity)
    return sorted(kept, key=lambda e: int(e.start))


def model_name(language: str) -> str | None:
    """Return the installed spaCy model of a language, the largest first; None without one."""
    names = _MODELS if language == "en" else tuple(f"{language}_core_news_{size}" for size in ("lg", "md", "sm"))
    return next((name for name in names if importlib.util.find_spec(name) is not None), None)


def make_engine(language: str) -> Any:
    """Return Presidio's analyzer for a language, with patterns alone where its model is not installed.

    Raises:
        EnvironmentUnfit: Presidio is not installed, or spaCy does not know the language.
    """
    try:
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
    except ImportError as exc:
        raise EnvironmentUnfit(
            f"--anonymize needs Presidio (the package '{exc.name}' is not installed)",
            next_step="run `pip install 'aios-alignment[anonymize]'`, and a spaCy model for names and places",
        ) from exc
    # The email recogniser checks domains by a list that tldextract would fetch from the net: take the packaged one.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    model = model_name(language)
    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": model or "blank"}])
    # Set here, not by engine.load(): that downloads a missing model, and ingestion must not reach out.
    try:
        engine.nlp = {language: importlib.import_module(model).load() if model else spacy.blank(language)}
    except (ImportError, OSError, ValueError) as exc:
        raise EnvironmentUnfit(
            f"--anonymize-language {language}: spaCy cannot load it ({' '.join(str(exc).split())[:200]})",
            next_step="give the code of a language that spaCy knows, and install what it asks for",
        ) from exc
    registry = RecognizerRegistry(recognizers=_recognizers(language, model), supported_languages=[language])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


def _recognizers(language: str, model: str | None) -> list[Any]:
    """Return one recogniser for each kind: Presidio's own list for German or French has none for card numbers."""
    from presidio_analyzer import predefined_recognizers as known

    kinds = [known.EmailRecognizer, known.PhoneRecognizer, known.CreditCardRecognizer, known.IbanRecognizer,
             known.IpRecognizer, *([known.SpacyRecognizer] if model else [])]  # fmt: skip
    return [kind(supported_language=language) for kind in kinds]
