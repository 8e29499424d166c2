"""From what a person filled in to a run's values, by the functions and texts that `aios jobs submit` takes.

A form is text by text: field -> what stands in it. Only what differs from a setting's default becomes part of the run.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jobs.config.fields import FieldSpec
from jobs.contract.errors import BadConfig
from k8s import values as run_values
from k8s.backends import Backend, Cluster, Local
from k8s.findings import Finding
from k8s.gui.files import check_values
from k8s.gui.runs import BOOK
from k8s.gui.settings import require_write
from k8s.machine.store import RUNS

KINDS = {"rm": ("rm",), "dpo": ("dpo",), "pipeline": ("rm", "dpo", "evaluation"), "ingest": ("ingest",)}
"""What the quick actions start."""
_MODELS = {"rm": "base_model", "dpo": "policy_model"}
_OURS = ("artifacts/", "training_data/")
_NEEDED = {"dataset_dir": "ingest an export first"} | dict.fromkeys(
    ("base_model", "policy_model", "ref_model", "reward_model"), "`aios hrm-hf fetch-model` brings the demo model"
)
"""Setting -> what to do where the folder it names is not there."""
_WIDTH = 60
COMPUTED = ("dataset_dir", "output_dir", "output", "json")
"""Follow from the run's name and data set, or make no sense here."""


@dataclass(slots=True)
class Form:
    """Everything a run is made of, as the page holds it."""

    kind: str = "pipeline"
    name: str = ""
    """Empty: made up at the start."""
    profile: str = "local"
    dataset: str = ""
    evaluate: bool = False
    args: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Step -> setting -> value, of settings that are not at their defaults."""
    other: dict[str, Any] = field(default_factory=dict)
    """Values of a cloned run that the page has no field for: dotted path -> value."""

    def steps(self) -> tuple[str, ...]:
        """Return the steps that will run."""
        steps = KINDS[self.kind]
        if self.kind == "pipeline" and self.args.get("ingest", {}).get("input"):
            steps = ("ingest", *steps)
        if self.evaluate and "evaluation" not in steps and self.kind != "ingest":
            steps = (*steps, "evaluation")
        return steps

    def settings(self) -> list[str]:
        """Return the run as `--set` texts."""
        wanted = self.steps()
        found = [_setting("run.dataset", self.dataset)] if self.dataset else []
        for step in ("ingest", "rm", "dpo", "evaluation"):
            default = step != "fetch-model"
            if (step in wanted) != default:
                found.append(f"steps.{step}.enabled={str(step in wanted).lower()}")
        models = [self.args.get(step, {}).get(key) for step, key in _MODELS.items() if step in wanted]
        if self.profile != "local" and models and all(models):
            found.append("steps.fetch-model.enabled=false")  # profiles fetch the demo model; here others are named
        found += [_setting(path, value) for path, value in self.other.items()]
        for step in wanted:
            for name, value in self.args.get(step, {}).items():
                if value is not None:
                    found.append(_setting(f"steps.{step}.args.{name}", value))
        return found

    def submit_command(self, name: str) -> list[str]:
        """Return the command that starts the same run from a terminal."""
        sets = [word for setting in self.settings() for word in ("--set", setting)]
        return ["aios", "jobs", "submit", "--profile", self.profile, "--name", name, *sets]


def _setting(path: str, value: Any) -> str:
    """Return `path=value` so that it is read back as this very value: JSON where plain text would not be."""
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, list | tuple | dict):
        parsed: Any = run_values.parse_setting(f"{path}={plain}")
        for _ in path.replace("\\.", "").split("."):
            (parsed,) = parsed.values()
        if parsed == value and type(parsed) is type(value):
            return f"{path}={plain}"
    return f"{path}={orjson.dumps(value).decode()}"


def quoted(words: list[str]) -> str:
    """Return a command as a person would type it in this machine's shell, an option a line where it is long."""
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    line = shlex.join(words)
    if len(line) <= _WIDTH:
        return line
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    lines = [words[:first]]
    for word in words[first:]:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(shlex.join(part) for part in lines)


def compose(form: Form, name: str) -> run_values.Values:
    """Return the values of the run, checked as `submit` checks them and against the panel's own limits.

    Raises:
        BadConfig: naming what does not fit.
    """
    values = run_values.compose(form.profile, settings=form.settings(), name=name)
    check_values(values)
    return values


def defaults(form: Form) -> dict[str, dict[str, Any]]:
    """Return what each step of the form would be given if nothing were filled in."""
    bare = Form(kind=form.kind, profile=form.profile, dataset=form.dataset, evaluate=form.evaluate)
    if form.kind == "ingest":
        return {}
    return {
        name: step["args"] for name, step in run_values.compose(form.profile, settings=bare.settings())["steps"].items()
    }


def absent(values: Mapping[str, Any]) -> list[str]:
    """Return in words what a run on this machine would look for in vain; a hub id is nobody's folder."""
    if values["backend"] != "local":
        return []
    steps = run_values.enabled_steps(values)
    made = {run_values.output_folder(name, step) for name, step in steps.items()}
    found = []
    for step in steps.values():
        for key, advice in _NEEDED.items():
            path = step["args"].get(key)
            if isinstance(path, str) and path.startswith(_OURS) and path not in made and not Path(path).is_dir():
                found.append(f"{path} is not on this volume: {advice}")
    return list(dict.fromkeys(found))


def suggest_name(form: Form) -> str:
    """Return a name that says what and when, free at this moment."""
    stem = time.strftime(f"{form.kind}-%m%d-%H%M%S")
    name, number = stem, 1
    while (RUNS / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def start(form: Form) -> str:
    """Start the run and return its name. Two people who press Start at once get two runs.

    Raises:
        AiosError: it cannot start, and nothing of it is left.
    """
    require_write()
    for _ in range(50):
        name = form.name or suggest_name(form)
        values = compose(form, name)
        try:
            return _submit(values, form.profile)
        except BadConfig:
            # Somebody took the suggested name between the suggestion and now.
            if form.name or not (RUNS / name).exists():
                raise
    raise BadConfig("no free name was found", next_step="give the run a name")


def _submit(values: run_values.Values, profile: str) -> str:
    place = _place(values, profile)
    name = place.submit(values, profile)
    if BOOK.cluster is not None and place is BOOK.cluster.place:
        BOOK.cluster.await_run(name)
    return name


def _place(values: Mapping[str, Any], profile: str) -> Backend:
    if values["backend"] == "local":
        return Local()
    if BOOK.cluster is None:
        raise BadConfig(
            f"the profile {profile} runs in a cluster, and this panel looks at none",
            next_step="start it with `aios gui --namespace NAME`, or use the profile local",
        )
    return BOOK.cluster.place


def doctor(form: Form, name: str) -> list[Finding]:
    """Return what `aios jobs doctor` says of this run.

    Raises:
        AiosError: the values do not fit, or no cluster answers.
    """
    from k8s.cluster.doctor import quick

    values = compose(form, name)
    place = _place(values, form.profile)
    return list(quick(place.api, values)) if isinstance(place, Cluster) else []


def parse(spec: FieldSpec, text: Any) -> Any:
    """Return a field's text as its setting's value; None where it is empty.

    Raises:
        ValueError: with what is wrong, in a few words.
    """
    if spec.kind is bool:
        return bool(text)
    text = str(text if text is not None else "").strip()
    if not text:
        return None
    if spec.multiple:
        return [line.strip() for line in text.splitlines() if line.strip()]
    if spec.kind is str:
        return text
    try:
        value = spec.kind(text)
    except ValueError:
        raise ValueError("a whole number" if spec.kind is int else "a number") from None
    low, high = spec.metadata.get("min"), spec.metadata.get("max")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
        raise ValueError(" and ".join(bound for bound in bounds if bound))
    return value


def models(kind: str) -> list[str]:
    """Return the folders on the volume that hold a model of some kind: base, rm or dpo."""
    return sorted(path.parent.as_posix() for path in Path("artifacts").glob(f"{kind}/*/config.json"))
