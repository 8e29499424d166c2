"""What a round of disruptions must leave as it was, and the account of what was done to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.contract.manifest import MANIFEST_NAME, verify
from jobs.contract.metrics import TIME_KEYS, read_metrics


@dataclass
class Ledger:
    """Counts disruptions that struck, and the steps of training that had to be done again after each of them."""

    struck: Counter[str] = field(default_factory=Counter)
    redone_steps: list[int] = field(default_factory=list)
    runs: int = 0

    def line(self) -> str:
        """Return the account of a whole test."""
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.struck.items()))
        redone = f"{sum(self.redone_steps)} steps done again, at most {max(self.redone_steps, default=0)} at once"
        return f"{self.struck.total()} disruptions over {self.runs} runs ({kinds}); {redone}"


def last_step(folder: Path) -> int:
    """Return the last training step in a folder's metrics; 0 before the first."""
    return max((line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"), default=0)


def redone(reached: dict[int, int], attempts: Path) -> list[int]:
    """Return, for each attempt that was ended, how many of its steps were done again by the next one that trained.

    Args:
        reached: attempt -> the last step in the metrics when it ended.
        attempts: the folder of the step's attempts.
    """
    found = []
    files = {int(path.parent.name.split("-")[1]): path for path in attempts.glob("attempt-*/stdout.log")}
    logs = {number: path.read_text(encoding="utf-8") for number, path in files.items()}
    for number, step in reached.items():
        later = (resumed_at(logs[other]) for other in sorted(logs) if other > number)
        resumed = next((at for at in later if at is not None), None)
        if resumed is not None:
            found.append(max(0, step - resumed))
    return found


def resumed_at(log: str) -> int | None:
    """Return the step that an attempt went on from, by its log: 0 where it began anew, None where it never trained."""
    marks = [line for line in log.splitlines() if "Continuing from step " in line]
    if marks:
        return int(marks[-1].partition("Continuing from step ")[2].split()[0])
    return 0 if " step 0/" in log else None


def check_whole_or_absent(folder: Path) -> None:
    """A folder that counts is whole: what stands beside a disruption is either a full result or none."""
    if (folder / MANIFEST_NAME).exists():
        verify(folder)


def result(folder: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the hashes of the published weights, and every metric line without what two equal runs differ in."""
    manifest = verify(folder)
    weights = {f.path: f.sha256 for f in manifest.files if f.path.endswith((".safetensors", "tokenizer.json"))}
    # Reference log-probabilities may come from the cache of the attempt before.
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] != "reference"]
    return weights, [{key: value for key, value in line.items() if key not in TIME_KEYS} for line in lines]
