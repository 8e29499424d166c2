"""A run's values: profile <- values files <- --set <- computed folders. The result says everything explicitly.

The same document starts local processes and goes to `helm install`; there is no second description of a run.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.config.fields import field_specs, from_mapping
from jobs.config.models import DEMO_MODEL
from jobs.contract.errors import BadConfig
from k8s.conductor import order
from k8s.schema import check
from k8s.steps import STEPS

Values = dict[str, Any]
PROFILES = Path(__file__).with_name("profiles")
DATASETS = "training_data/curated_datasets"


_MAPS_OF_TEXT = ("nodeSelector", "labels", "annotations", "podLabels", "podAnnotations", "env")


class _Loader(yaml.SafeLoader):
    """YAML as Helm reads it: 2e-5 is a number. PyYAML follows YAML 1.1, where it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
# Resolvers are tried in the order of adding: what is an integer stays one, though the pattern above fits it as well.


def read_yaml(text: str, name: str) -> Any:
    """Parse YAML the way Helm does.

    Raises:
        BadConfig: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader with one more number format
    except yaml.YAMLError as exc:
        raise BadConfig(f"{name} is not YAML: {exc}") from exc


def read_values(path: Path) -> Values:
    """Read a values file."""
    try:
        document = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as exc:
        raise BadConfig(f"no such values file: {path}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise BadConfig(f"{path} cannot be read: {exc}") from exc
    if document is not None and not isinstance(document, dict):
        raise BadConfig(f"{path} holds {type(document).__name__}", needed="a mapping, as in `aios jobs render`")
    return document or {}


def profile_names() -> list[str]:
    """Return the names of the packaged profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml") if path.stem != "defaults")


def read_profile(name: str) -> Values:
    """Return a packaged profile, or the values file of that name."""
    if name in profile_names():
        return read_values(PROFILES / f"{name}.yaml")
    if Path(name).is_file():
        return read_values(Path(name))
    raise BadConfig(f"no profile {name!r}", needed=f"{', '.join(profile_names())}, or a values file")


def compose(
    profile: str,
    *,
    files: Iterable[Path] = (),
    settings: Iterable[str] = (),
    name: str | None = None,
    inputs: Sequence[str] = (),
) -> Values:
    """Compose, complete and check a run's values.

    Raises:
        BadConfig: naming the setting that is unknown, missing or out of range.
    """
    values = layers(profile)
    for path in files:
        values = merge(values, read_values(path))
    for setting in settings:
        values = merge(values, parse_setting(setting))
    explicit: Values = {"run": {"name": name}} if name else {}
    if inputs:
        explicit = merge(explicit, {"steps": {"ingest": {"args": {"input": list(inputs)}}}})
    values = merge(values, explicit)
    if not (values.get("run") or {}).get("name"):
        values = merge(values, {"run": {"name": time.strftime("run-%m%d-%H%M%S")}})
    check_keys(values)
    return complete(values)


def layers(profile: str) -> Values:
    """Return the defaults with a profile on top: not yet a run, but where and with which images."""
    return dict(merge(read_values(PROFILES / "defaults.yaml"), read_profile(profile)))


def check_keys(values: Values) -> None:
    """Check names and types before anything is computed, so that a typo is reported as a typo."""
    probe = copy.deepcopy(values)
    if not probe["run"].get("dataset"):
        probe["run"]["dataset"] = "x"
    check(probe)


def merge(base: Any, over: Any) -> Any:
    """Lay one document over another: mappings are merged, all else is replaced; null removes nothing."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merge(base[key], value) if key in base else value for key, value in over.items()}
    return copy.deepcopy(over)


def parse_setting(text: str) -> Values:
    r"""Turn `steps.dpo.args.beta=0.2` into a document; a dot in a name is written `\.`."""
    path, separator, value = text.partition("=")
    keys = [key.replace("\0", ".") for key in path.replace("\\.", "\0").split(".")]
    if not separator or not all(keys):
        raise BadConfig(f"--set {text!r}", needed="KEY.KEY=VALUE, such as steps.dpo.args.beta=0.2")
    document: Any = read_yaml(value, f"--set {path}") if value else ""
    if len(keys) > 1 and keys[-2] in _MAPS_OF_TEXT:
        document = value
    if keys[0] == "steps" and keys[2:3] == ["args"] and len(keys) == 4:
        document = _argument(keys[1], keys[3], document)
    for key in reversed(keys):
        document = {key: document}
    return dict(document)


def _argument(step: str, name: str, value: Any) -> Any:
    """Fit a value from the command line to its setting: one file is a list of one, 7 may be a name."""
    spec = next((s for s in field_specs(STEPS[step].config) if s.name == name), None) if step in STEPS else None
    if spec is None:
        return value
    if spec.multiple and not isinstance(value, list):
        return [str(value)]
    if spec.kind is str and not spec.choices and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def complete(values: Values) -> Values:
    """Fill in the folders that follow from the run's name, drop needs that are not there, check the whole."""
    values = copy.deepcopy(values)
    run = values["run"]
    run["dataset"] = run.get("dataset") or run["name"]
    steps = {name: values["steps"][name] for name in STEPS if name in values["steps"]}
    for name, step in steps.items():
        step["args"] = _in_order(name, computed_args(name, values) | step.get("args", {}))
    enabled = {name for name, step in steps.items() if step.get("enabled")}
    for step in steps.values():
        step["needs"] = [need for need in step.get("needs", []) if need in enabled]
    values["steps"] = steps
    check(values)
    if values.get("backend") == "local" and values.get("workspace", {}).get("isolation") == "run":
        raise BadConfig(
            "workspace.isolation=run on this machine", needed="a cluster, whose pods mount folders of their own"
        )
    _check_steps(steps, enabled)
    return values


def computed_args(name: str, values: Values) -> dict[str, Any]:
    """Return the settings of a step that follow from the run: its folders and the models before it."""
    run, steps = values["run"]["name"], values["steps"]
    fetch = steps.get("fetch-model", {}).get("args", {})
    base = fetch.get("output_dir") or f"artifacts/base/{fetch.get('model', DEMO_MODEL).rsplit('/', 1)[-1].lower()}"
    dataset = f"{DATASETS}/{values['run']['dataset']}"
    rm, dpo = (steps.get(step, {}) for step in ("rm", "dpo"))
    policy = dpo.get("args", {})
    if name == "fetch-model":
        return {"output_dir": base}
    if name == "ingest":
        return {"output": dataset}
    folders = {"dataset_dir": dataset, "output_dir": f"artifacts/{name}/{run}"}
    if name == "rm":
        return folders | {"base_model": base}
    if name == "dpo":
        return folders | {"policy_model": base}
    # What this run does not train is not judged either, unless the values name it.
    if name == "rm-score":
        scores: Values = {"output": f"artifacts/scores/{run}.jsonl"}
        return scores | ({"model": rm["args"]["output_dir"]} if rm.get("enabled") else {})
    if rm.get("enabled"):
        folders["reward_model"] = rm["args"]["output_dir"]
    if dpo.get("enabled"):
        folders["policy_model"] = policy["output_dir"]
        folders["ref_model"] = policy.get("ref_model") or policy["policy_model"]
    return folders


def _in_order(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    names = [spec.name for spec in field_specs(STEPS[name].config)]
    return {key: args[key] for key in names if args.get(key) is not None}


def _check_steps(steps: Mapping[str, Values], enabled: set[str]) -> None:
    if not enabled:
        raise BadConfig("no step is enabled", next_step="set steps.NAME.enabled=true for one at least")
    try:
        order({name: tuple(step["needs"]) for name, step in steps.items()})
    except ValueError as exc:
        raise BadConfig(f"{exc} need each other", next_step="break the circle in steps.NAME.needs") from exc
    for name in enabled:
        try:
            from_mapping(STEPS[name].config, steps[name]["args"])
        except BadConfig as exc:
            hint = exc.next_step
            if name == "ingest" and "input" not in steps[name]["args"]:
                hint = "give --input FILE, or --set steps.ingest.enabled=false to use a data set that is there"
            raise BadConfig(f"steps.{name}.args: {exc.found}", needed=exc.needed, next_step=hint) from exc


def enabled_steps(values: Mapping[str, Any]) -> dict[str, Values]:
    """Return the steps that this run does, in an order in which they can run."""
    given = values["steps"]
    steps = {name: given[name] for name in STEPS if name in given and given[name].get("enabled")}
    return {name: steps[name] for name in order({name: tuple(step["needs"]) for name, step in steps.items()})}


def command(name: str, step: Mapping[str, Any]) -> list[str]:
    """Return the command of a step, the one of the runbook."""
    return STEPS[name].arguments(step["args"])


def output_folder(name: str, step: Mapping[str, Any]) -> str:
    """Return the folder that a step publishes, relative to the workspace."""
    return str(step["args"][STEPS[name].output])


class _Dumper(yaml.SafeDumper):
    """Writes a list twice where it occurs twice: Helm's users read this, and anchors are for machines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(values: Values) -> str:
    """Print a values document."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
