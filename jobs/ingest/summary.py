"""What a person sees: progress while it runs, the report as a few lines of text afterwards."""

from __future__ import annotations

import time
from types import TracebackType
from typing import IO, Any, Self

import click

from jobs.contract.splits import SPLITS
from jobs.ingest.reasons import INVALID, OPEN

_SHOW_AFTER_S = 1.0
_LINE_EVERY_S = 15.0
_PHASES = {"read": "reading", "settle": "comparing", "write": "writing"}


class Meter:
    """A progress line that appears after a second: rewritten in place on a terminal, a new one at times elsewhere."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.started = self.shown = time.monotonic()
        self.phase = ""

    def __enter__(self) -> Self:
        return self

    def update(self, phase: str, share: float) -> None:
        """Show how far a phase is, ten times a second at most."""
        now = time.monotonic()
        if now - self.started < _SHOW_AFTER_S:
            return
        if self.live and (now - self.shown > 0.1 or share == 1.0):
            self.shown = now
            filled = int(30 * share)
            self.stream.write(f"\r{_PHASES[phase]:<10} [{'#' * filled}{'.' * (30 - filled)}] {share:4.0%}")
            self.stream.flush()
        elif not self.live and (phase != self.phase or now - self.shown > _LINE_EVERY_S):
            self.stream.write(
                f"{_PHASES[phase]} ... {share:.0%}\n" if phase == self.phase else f"{_PHASES[phase]} ...\n"
            )
            self.phase, self.shown = phase, now

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live and self.shown != self.started:
            self.stream.write("\r" + " " * 60 + "\r")


def print_summary(report: dict[str, Any], heading: str) -> None:
    """Print the report for a person."""
    for line in summary_lines(report, heading):
        click.echo(line)


def summary_lines(report: dict[str, Any], heading: str) -> list[str]:
    """Return the report as lines of text."""
    totals, decision = report["totals"], report["decision"]
    asked = decision["question"]
    lines = [
        heading,
        f"  export    {decision['variant_text']}",
        f"  prompt    {_joined(decision['prompt'])}; responses {_joined(decision['responses'])}"
        + (f"; question {_joined(asked)} ({decision['question_kind']})" if asked else ""),
        f"  records   {totals['records']:,} in, {totals['pairs']:,} pairs out, {totals['dropped']:,} dropped",
        "  splits    " + ", ".join(f"{name} {report['splits'][name]['pairs']:,}" for name in SPLITS),
        f"  valid     {report['validity']:.1%} of the records",
    ]
    lines += _drop_lines(report["drops"], totals["records"])
    agreement, bias = report["agreement"], report["bias"]
    if agreement["pairwise"] is not None:
        value = agreement["krippendorff_alpha"]
        alpha = "-" if value is None else f"{value:.3f}"
        lines.append(f"  agreement {agreement['pairwise']:.1%} of vote pairs, alpha {alpha}")
    shares = [
        f"{text} wins {bias[key]:.1%}"
        for key, text in (("first_option_wins", "first option"), ("longer_wins", "longer answer"))
        if bias[key] is not None
    ]
    if shares:
        lines.append(f"  bias      {', '.join(shares)}")
    if report["lengths"]["prompt"]["count"]:
        kind = "tokens" if report["lengths"]["exact"] else "tokens, approximately"
        medians = ", ".join(f"{name} {report['lengths'][name]['p50']}" for name in ("prompt", "chosen", "rejected"))
        lines.append(f"  median    {medians} ({kind})")
    if report["pii"]["anonymized"]:
        found = ", ".join(f"{name} {count:,}" for name, count in report["pii"]["entities"].items())
        lines.append(f"  anonymized {found or 'nothing found'}")
    return lines


def _drop_lines(drops: dict[str, Any], records: int) -> list[str]:
    lines = []
    for reason, drop in drops.items():
        kind = "invalid" if reason in INVALID else "open" if reason in OPEN else "again"
        lines.append(f"    {reason:<24} {drop['count']:>9,}  {drop['count'] / max(records, 1):6.1%}  {kind}")
    return lines


def _joined(names: Any) -> str:
    return names if isinstance(names, str) else " + ".join(names)
