"""Make the synthetic sample: preference records as Argilla 2.x exports them, flat, one JSON object per line.

phrases.toml -> argilla_export.jsonl    (python make_sample.py [--out FILE] [--records N] [--seed S])

Every record has a prompt, two answers and the judgement of up to three annotators. One answer is right, specific and to
the point. The other has one of several flaws: it evades, is vague, rude, circular, contradicts itself, advises the
opposite, repeats itself, stops half-way, sells something, answers another prompt or ignores the format asked for. So
the demo has something to learn, and not from a short cut: the flawed answers are fluent, each flaw is phrased in
hundreds of ways, and the better answer is the longer one, and the first one, half of the time.

Like a real project it also holds disagreement, ties, drafts, discards, unanswered records, duplicates (a few of which
contradict each other), made-up personal data and some malformed rows.  The same seed gives the same bytes everywhere.
"""

import argparse
import json
import random
import re
import tomllib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Slots = dict[str, str]

HERE = Path(__file__).parent
FRAMED = 0.3  # share of answers, good or bad, that open (and, apart from that, close) with a courtesy
REUSED = 0.03  # share of prompts that are asked again, with other answers: a split must keep them together
EVEN = 0.05  # share of records in which both answers are good
UNANSWERED = 0.05  # share of records that no annotator has reached
PII_ROWS = 15
DUPLICATES = 20
CONTRADICTIONS = 3
DAMAGE_EACH = 4  # rows per way of being malformed
MAX_TRIES = 200
MAX_CHARS = 230  # of an answer, about 50 tokens: the demo trains on CPUs
VOTE_COUNTS = (1, 1, 1, 2, 3, 3)
ERROR_RATES = (0.02, 0.03, 0.05, 0.07, 0.12)  # one per annotator: how often they favour the flawed answer
TIE_RATE = 0.05  # how often an annotator sees no difference although there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of prompt, with templates for what is asked, right answers and the flaws that suit it."""

    name: str
    share: int
    """How often it is drawn, relative to the others."""
    prompts: list[str]
    good: list[str]
    flaws: list[str]
    """Keys of the common flaws, or "wrong", "off_topic", "halfway"; one listed twice is twice as frequent."""
    wrong: list[str] = field(default_factory=list)
    """Flawed answers that only make sense for this kind."""
    drill: str = ""
    """Key in DRILLS of the function that fills the slots; without one they are filled from a topic."""
    unframed: bool = False
    """True where the prompt asks for a format that a courtesy would break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """Everything in phrases.toml."""

    kinds: list[Kind]
    topics: list[Record]
    flaws: dict[str, list[str]]
    drills: dict[str, list[str]]
    openers: list[str]
    closers: list[str]
    asides: dict[str, list[str]]
    """Slots of the prompt that any topic takes: person, audience, time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt, with what is needed to answer it."""

    kind: Kind
    prompt: str
    slots: Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prompt with its better and its worse answer; flaw names what is wrong with the latter ("" if nothing)."""

    task: Task
    better: str
    worse: str
    flaw: str


def load_phrases(path: Path) -> Phrases:
    """Read the words from the TOML file at path."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    asides = {"person": data["persons"], "audience": data["audiences"], "time": data["times"]}
    kinds = [Kind(**entry) for entry in data["kind"]]
    common = {key: data[key] for key in ("flaws", "drills", "openers", "closers")}
    return Phrases(kinds=kinds, topics=data["topic"], asides=asides, **common)


# ---------------------------------------------------------------------------------------------------------------- texts


def fill(rng: random.Random, template: str, slots: Slots) -> str:
    """Choose one of each "[this|that]" in template, then fill its "{slots}"; one with a capital starts a sentence."""
    text = re.sub(r"\[([^\]]*)\]", lambda match: rng.choice(match[1].split("|")), template)
    capitals = {key.capitalize(): value[0].upper() + value[1:] for key, value in slots.items()}
    return text.format(**slots, **capitals)


def topic_slots(rng: random.Random, phrases: Phrases) -> Slots:
    """A topic with three of its tips, each a piece of advice (a1 to a3) and its reason (r1 to r3)."""
    topic = rng.choice(phrases.topics)
    slots = {"goal": topic["goal"], "thing": topic["thing"]}
    for place, (advice, reason) in enumerate(rng.sample(topic["tips"], 3), start=1):
        slots |= {f"a{place}": advice, f"r{place}": reason}
    return slots | {key: rng.choice(values) for key, values in phrases.asides.items()}


def total_slots(rng: random.Random, words: dict[str, list[str]]) -> Slots:
    """A multiplication; bad is a plausible wrong result, plus is what adding would give."""
    n, price = rng.randint(3, 12), rng.randint(3, 19)
    bad = n * price + rng.choice([-10, -2, 1, 2, 10, price])
    return {
        "goal": "work out the total", "thing": "the total", "name": rng.choice(words["names"]),
        "items": rng.choice(words["items"]),
        "n": str(n), "price": str(price), "total": str(n * price), "bad": str(bad), "plus": str(n + price),
    }  # fmt: skip


def left_slots(rng: random.Random, words: dict[str, list[str]]) -> Slots:
    """A subtraction; bad is a plausible wrong result, plus is what adding would give."""
    n, m = rng.randint(20, 60), rng.randint(3, 18)
    bad = n - m + rng.choice([-10, -1, 1, 2, 10])
    return {
        "goal": "work out the rest", "thing": "the rest", "name": rng.choice(words["names"]),
        "items": rng.choice(words["items"]),
        "n": str(n), "m": str(m), "left": str(n - m), "bad": str(bad), "plus": str(n + m),
    }  # fmt: skip


def request_slots(rng: random.Random, words: dict[str, list[str]]) -> Slots:
    """A curt request to be put politely; name2, do2 and day2 are not what was asked for."""
    (name, name2), (do, do2), (day, day2) = (rng.sample(words[key], 2) for key in ("names", "requests", "days"))
    goal, thing = "write a polite request", "polite requests"
    return {"goal": goal, "thing": thing, "name": name, "name2": name2, "do": do, "do2": do2, "day": day, "day2": day2}


DRILLS: dict[str, Callable[[random.Random, dict[str, list[str]]], Slots]] = {
    "total": total_slots,
    "left": left_slots,
    "request": request_slots,
}


def new_task(rng: random.Random, phrases: Phrases) -> Task:
    """Draw a kind, then a topic or a drill, and word the prompt."""
    (kind,) = rng.choices(phrases.kinds, [kind.share for kind in phrases.kinds])
    slots = DRILLS[kind.drill](rng, phrases.drills) if kind.drill else topic_slots(rng, phrases)
    return Task(kind=kind, prompt=fill(rng, rng.choice(kind.prompts), slots), slots=slots)


def good_answer(rng: random.Random, task: Task) -> str:
    """A right answer to the prompt."""
    return fill(rng, rng.choice(task.kind.good), task.slots)


def flawed_answer(rng: random.Random, phrases: Phrases, task: Task, flaw: str) -> str:
    """An answer to the prompt that has the flaw."""
    if flaw == "off_topic":
        return good_answer(rng, other_task(rng, phrases, task))
    if flaw == "halfway":
        words = good_answer(rng, task).split(" ")
        return " ".join(words[: round(len(words) * rng.uniform(0.5, 0.8))])
    templates = task.kind.wrong if flaw == "wrong" else phrases.flaws[flaw]
    return fill(rng, rng.choice(templates), task.slots)


def other_task(rng: random.Random, phrases: Phrases, task: Task) -> Task:
    """A task whose right answer is beside the point of this one."""
    while (other := new_task(rng, phrases)).slots["thing"] == task.slots["thing"]:
        pass
    return other


def framed(rng: random.Random, phrases: Phrases, text: str) -> str:
    """Sometimes add a courtesy before or after the text, whatever its worth."""
    opener = [rng.choice(phrases.openers)] if rng.random() < FRAMED else []
    closer = [rng.choice(phrases.closers)] if rng.random() < FRAMED else []
    return " ".join([*opener, text, *closer])


def pieces(text: str) -> list[str]:
    """Words and punctuation marks, about what a tokenizer counts."""
    return re.findall(r"\w+|[^\w\s]", text)


def new_pair(rng: random.Random, phrases: Phrases, task: Task, *, better_is_longer: bool) -> Pair:
    """Two answers to the prompt.  Which one is longer is given beforehand, so that length tells nothing."""
    flaw = "" if rng.random() < EVEN else rng.choice(task.kind.flaws)
    for _ in range(MAX_TRIES):
        better = good_answer(rng, task)
        worse = flawed_answer(rng, phrases, task, flaw) if flaw else good_answer(rng, task)
        if not task.kind.unframed:
            better, worse = framed(rng, phrases, better), framed(rng, phrases, worse)
        longer, shorter = (better, worse) if better_is_longer else (worse, better)
        if MAX_CHARS >= len(longer) > len(shorter) and len(pieces(longer)) > len(pieces(shorter)):
            break
    return Pair(task=task, better=better, worse=worse, flaw=flaw)


def new_pairs(rng: random.Random, phrases: Phrases, count: int) -> list[Pair]:
    """That many pairs; apart from the share REUSED no prompt comes twice."""
    pairs: list[Pair] = []
    seen: set[str] = set()
    while len(pairs) < count:
        reused = bool(pairs) and rng.random() < REUSED
        task = rng.choice(pairs).task if reused else new_task(rng, phrases)
        if reused or task.prompt not in seen:
            seen.add(task.prompt)
            pairs.append(new_pair(rng, phrases, task, better_is_longer=len(pairs) % 2 == 0))
    return pairs


# -------------------------------------------------------------------------------------------------------------- records


def new_uuid(rng: random.Random) -> str:
    """A random UUID that follows the seed."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def vote(rng: random.Random, error_rate: float, better_name: str, flaw: str) -> str:
    """What one annotator answers, who may err, or see no difference."""
    worse_name = "response_b" if better_name == "response_a" else "response_a"
    if not flaw:
        return rng.choice(["tie", "tie", "tie", better_name, worse_name])
    if rng.random() < TIE_RATE:
        return "tie"
    return worse_name if rng.random() < error_rate else better_name


def answer_columns(rng: random.Random, annotators: dict[str, float], better_name: str, flaw: str) -> Record:
    """The three columns of the answers: null if there are none, else lists of equal length."""
    count = 0 if rng.random() < UNANSWERED else rng.choice(VOTE_COUNTS)
    users = rng.sample(sorted(annotators), count)
    return {
        "preference.responses": [vote(rng, annotators[user], better_name, flaw) for user in users] or None,
        "preference.responses.users": users or None,
        "preference.responses.status": rng.choices(["submitted", "draft", "discarded"], [92, 4, 4], k=count) or None,
    }


def suggestion_columns(rng: random.Random, better_name: str) -> Record:
    """What a mediocre automatic judge suggests; the label becomes a code in encode_suggestions."""
    if rng.random() < 0.3:
        return {"preference.suggestion": None, "preference.suggestion.score": None, "preference.suggestion.agent": None}
    label = better_name if rng.random() < 0.7 else rng.choice(["response_a", "response_b", "tie"])
    score = round(rng.uniform(0.5, 0.95), 3)
    return {
        "preference.suggestion": label,
        "preference.suggestion.score": score,
        "preference.suggestion.agent": "judge-v1",
    }


def new_record(rng: random.Random, annotators: dict[str, float], number: int, pair: Pair) -> Record:
    """The record of a pair, as it would be exported."""
    better_name = rng.choice(["response_a", "response_b"])
    first, second = (pair.better, pair.worse) if better_name == "response_a" else (pair.worse, pair.better)
    answers = answer_columns(rng, annotators, better_name, pair.flaw)
    submitted = (answers["preference.responses.status"] or []).count("submitted")
    return {
        "id": f"sample-{number:04}",
        "status": "completed" if submitted else "pending",
        "_server_id": new_uuid(rng),
        "prompt": pair.task.prompt,
        "response_a": first,
        "response_b": second,
        "kind": pair.task.kind.name,
        "source": rng.choice(["help-desk", "hand-written", "red-team"]),
        **answers,
        **suggestion_columns(rng, better_name),
    }


def with_pii(rng: random.Random, phrases: Phrases, pair: Pair) -> Pair:
    """The pair with a made-up name and contact in its prompt; numbers and domains are reserved for fiction."""
    name = rng.choice(phrases.drills["names"])
    contact = rng.choice(phrases.drills["contacts"]).format(first=name.lower(), num=rng.randint(100, 199))
    return replace(pair, task=replace(pair.task, prompt=f"{pair.task.prompt} {name} here, {contact}."))


def add_duplicates(rng: random.Random, records: list[Record]) -> None:
    """Append copies of decided records under new ids: most agree with the original, the last few contradict it."""
    decided = [record for record in records if record["preference.responses"] in (["response_a"], ["response_b"])]
    decided = [record for record in decided if record["status"] == "completed"]
    for place, record in enumerate(rng.sample(decided, DUPLICATES + CONTRADICTIONS)):
        copy = record | {"id": f"sample-{len(records):04}", "_server_id": new_uuid(rng)}
        if place >= DUPLICATES:
            other = "response_b" if record["preference.responses"] == ["response_a"] else "response_a"
            copy["preference.responses"] = [other]
        records.append(copy)


def damage(rng: random.Random, records: list[Record]) -> None:
    """Spoil a few records, each in one of the ways that imports meet in practice."""
    ways: list[Callable[[Record], Record]] = [
        lambda record: {"prompt": None},
        lambda record: {"prompt": "  "},
        lambda record: {"response_b": None},
        lambda record: {"response_a": ""},
        lambda record: {"response_b": record["response_a"]},
        lambda record: {"prompt": len(record["prompt"])},
        lambda record: {"preference.responses": ["response_c"] * 3},
        lambda record: {"preference.responses.status": "submitted"},
    ]
    answered = [record for record in records if len(record["preference.responses"] or []) == 3]
    for place, record in enumerate(rng.sample(answered, DAMAGE_EACH * len(ways))):
        record |= ways[place % len(ways)](record)


def encode_suggestions(records: list[Record]) -> None:
    """Replace suggested labels by integers in order of first appearance, null included, as Argilla's export does."""
    codes: dict[str | None, int] = {}
    for record in records:
        label = record["preference.suggestion"]
        record["preference.suggestion"] = codes.setdefault(label, len(codes))


def make_records(seed: int, count: int, phrases: Phrases) -> list[Record]:
    """All the records, in a random order."""
    rng = random.Random(seed)
    annotators = {new_uuid(rng): rate for rate in ERROR_RATES}
    pairs = new_pairs(rng, phrases, count - DUPLICATES - CONTRADICTIONS)
    for place in rng.sample(range(len(pairs)), PII_ROWS):
        pairs[place] = with_pii(rng, phrases, pairs[place])
    records = [new_record(rng, annotators, number, pair) for number, pair in enumerate(pairs)]
    damage(rng, records)
    add_duplicates(rng, records)
    rng.shuffle(records)
    encode_suggestions(records)
    return records


def main() -> None:
    """Write the sample."""
    parser = argparse.ArgumentParser(description="Write the synthetic Argilla export")
    parser.add_argument("--out", type=Path, default=HERE / "argilla_export.jsonl", help="File to write")
    parser.add_argument("--records", type=int, default=1700, help="Number of records")
    parser.add_argument("--seed", type=int, default=7, help="Seed of everything that is drawn")
    args = parser.parse_args()
    records = make_records(args.seed, args.records, load_phrases(HERE / "phrases.toml"))
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    args.out.write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
