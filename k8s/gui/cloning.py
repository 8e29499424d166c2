"""From a run's values back to the form that starts the same run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.config.fields import field_specs
from k8s.gui.launch import COMPUTED, Form, defaults
from k8s.steps import STEPS
from k8s.values import compose, computed_args, enabled_steps, layers, profile_names

_ABSENT = object()


def clone(values: Mapping[str, Any], profile: str) -> Form:
    """Return the form that starts the same run again under another name.

    A run of a cluster, or of a values file, has no profile of ours: the one that differs least takes its place, and
    what differs comes along.
    """
    names = [profile] if profile in profile_names() else _profiles_of(str(values["backend"]))
    forms = [_form(values, name) for name in names]
    form, carried = min(forms, key=lambda found: len(found[1]))
    form.other = {path: value for path, value in carried.items() if value is not _ABSENT}
    return form


def _profiles_of(backend: str) -> list[str]:
    return [name for name in profile_names() if layers(name)["backend"] == backend]


def _form(values: Mapping[str, Any], profile: str) -> tuple[Form, dict[str, Any]]:
    """Return the form without what it has no field for, and that."""
    steps = enabled_steps(values)
    form = Form(kind=_kind(set(steps)), profile=profile, dataset=values["run"]["dataset"])
    form.evaluate = "evaluation" in steps
    usual = defaults(form)
    for name in steps.keys() & {"ingest", "rm", "dpo", "evaluation"}:
        own, given = computed_args(name, dict(values)), steps[name]["args"]
        common = {spec.name: spec.default for spec in field_specs(STEPS[name].config)} | usual.get(name, {})
        form.args[name] = {
            key: value
            for key, value in given.items()
            if key not in COMPUTED and own.get(key) != value and common[key] != value
        }
    made = compose(profile, settings=form.settings(), name=values["run"]["name"])
    return form, dict(_differences(made, values))


def _kind(steps: set[str]) -> str:
    trained = {"rm", "dpo"} & steps
    if len(trained) == 1:
        return trained.pop()
    return "ingest" if not trained and "ingest" in steps else "pipeline"


def _differences(made: Any, wanted: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the settings that turn one document into the other; what only the first has cannot be taken away."""
    if path[:1] == ("run",) or path[-1:] == ("needs",) or (path[2:3] == ("args",) and path[-1] in COMPUTED):
        return  # they follow from the rest
    if isinstance(made, dict) and isinstance(wanted, dict):
        for key in {**made, **wanted}:
            yield from _differences(made.get(key, _ABSENT), wanted.get(key, _ABSENT), (*path, key))
    elif made != wanted:
        yield ".".join(key.replace(".", "\\.") for key in path), wanted
