"""The schema of a run's values: generated from the steps' configs, used by this launcher and, as JSON, by the chart.

One source for both, so a typo is refused the same way by `aios jobs submit` and by `helm install`.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from jobs.config.fields import FieldSpec, field_specs
from jobs.contract.errors import BadConfig
from jobs.contract.redact import NAMES as SECRET_NAMES
from k8s.steps import STEPS

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
"""A DNS label of at most 40 characters, so that NAME-fetch-model and a pod's suffix still fit into 63."""
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
_SHARED = r"^(artifacts|training_data)(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"
_DIGEST = r"^(sha256:[0-9a-f]{64})?$"

Schema = dict[str, Any]


def _object(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties} | more


def _text(**more: Any) -> Schema:
    return {"type": "string"} | more


def _map(value: Schema, **more: Any) -> Schema:
    return {"type": "object", "additionalProperties": value} | more


_ANY_LIST = {"type": "array", "items": {"type": "object"}}
_WHOLE = {"type": "integer", "minimum": 0}
_QUANTITIES = _map({"type": ["string", "integer", "number"], "pattern": _QUANTITY})
_RESOURCES = _object({"requests": _QUANTITIES, "limits": _QUANTITIES})
_SECRET = _object({"env": _text(), "secret": _text(), "key": _text()}, required=["env", "secret", "key"])


def values_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a run's values document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One run of the pipeline",
        **_object(
            {
                "backend": {"enum": ["local", "kubernetes"]},
                "run": _object(
                    {"name": _text(pattern=NAME_PATTERN), "dataset": _text(pattern=NAME_PATTERN)},
                    required=["name", "dataset"],
                ),
                "image": _object(
                    {
                        "registry": _text(),
                        "tag": _text(),
                        "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                        "pullSecrets": {"type": "array", "items": _text()},
                    }
                ),
                "workspace": _object(
                    {
                        "claim": _text(minLength=1),
                        "isolation": {"enum": ["none", "run"]},
                        "shared": {"type": "array", "items": _text(pattern=_SHARED)},
                    }
                ),
                "podSecurity": _object(
                    {
                        "runAsUser": _WHOLE,
                        "fsGroup": _WHOLE,
                        "supplementalGroups": {"type": "array", "items": _WHOLE},
                        "hostUsers": {"type": ["boolean", "null"]},
                    }
                ),
                "kueue": _object({"queue": _text()}),
                "priorityClassName": _text(),
                "ttlSecondsAfterFinished": _WHOLE,
                "labels": _map(_text()),
                "annotations": _map(_text()),
                "conductor": _object(
                    {
                        "enabled": {"type": "boolean"},
                        "image": _image(),
                        "resources": _RESOURCES,
                        "startupDeadlineSeconds": _WHOLE,
                        "growMemory": {"type": "boolean"},
                        "nodeSelector": _map(_text()),
                        "tolerations": _ANY_LIST,
                    }
                ),
                "steps": _object({name: _step(name) for name in STEPS}),
            },
            required=["run", "steps"],
        ),
    }


def _image() -> Schema:
    return _object({"name": _text(minLength=1), "tag": _text(), "digest": _text(pattern=_DIGEST)})


def _step(name: str) -> Schema:
    return _object(
        {
            "enabled": {"type": "boolean"},
            "needs": {"type": "array", "items": {"enum": list(STEPS)}},
            "args": _object({spec.name: _argument(spec) for spec in field_specs(STEPS[name].config)}),
            "backoffLimit": _WHOLE,
            "image": _image(),
            "resources": _RESOURCES,
            "shmSize": _text(pattern=_QUANTITY),
            "tmpSize": _text(pattern=_QUANTITY),
            "gracePeriodSeconds": {"type": "integer", "minimum": 5},
            "startupDeadlineSeconds": {"type": ["integer", "null"], "minimum": 1},
            "onHang": {"enum": ["report", "restart"]},
            "activeDeadlineSeconds": {"type": ["integer", "null"], "minimum": 1},
            "nodeSelector": _map(_text()),
            "gpuProducts": {"type": "array", "items": _text()},
            "affinity": {"type": "object"},
            "tolerations": _ANY_LIST,
            "runtimeClassName": _text(),
            "processes": {"type": "integer", "minimum": 1},
            "nodes": {"type": "integer", "minimum": 1},
            **({} if STEPS[name].manifest else {"shards": {"type": "integer", "minimum": 1}}),
            # Values are kept in the release, a ConfigMap and run.json: no place for a secret.
            "env": _map(_text(), propertyNames={"not": {"pattern": SECRET_NAMES}}),
            "secrets": {"type": "array", "items": _SECRET},
            "hub": {"type": "boolean"},
            "keepOnNode": {"type": "boolean"},
            "podLabels": _map(_text()),
            "podAnnotations": _map(_text()),
        }
    )


_TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _argument(spec: FieldSpec) -> Schema:
    """Return the schema of one setting of a step; its help is the docstring under the field."""
    value: Schema = {"enum": list(spec.choices)} if spec.choices else {"type": _TYPES[spec.kind]}
    if spec.metadata.get("min") is not None:
        value["minimum"] = spec.metadata["min"]
    if spec.metadata.get("max") is not None:
        value["maximum"] = spec.metadata["max"]
    if spec.multiple:
        value = {"type": "array", "items": value}
    if spec.optional and "type" in value:
        value["type"] = [value["type"], "null"]
    elif spec.optional:
        value["enum"] = [*value["enum"], None]
    return value | {"description": spec.help}


def check(document: Any, schema: Schema | None = None) -> None:
    """Compare a values document with the schema.

    Raises:
        BadConfig: naming the first place that does not fit, and the nearest name where one is unknown.
    """
    _check(document, schema or values_schema(), "")


def _check(value: Any, schema: Schema, path: str) -> None:
    where = path or "the document"
    if "enum" in schema and value not in schema["enum"]:
        raise BadConfig(f"{where} is {value!r}", needed=" or ".join(str(item) for item in schema["enum"]))
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        kinds = kinds if isinstance(kinds, str) else " or ".join(kinds)
        raise BadConfig(f"{where} is {value!r}", needed=f"a value of type {kinds}")
    _check_scalar(value, schema, where)
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, schema.get("items", {}), f"{where}[{index}]")
    if isinstance(value, dict):
        _check_object(value, schema, path)


def _check_scalar(value: Any, schema: Schema, where: str) -> None:
    if isinstance(value, str):
        pattern = schema.get("pattern")
        if pattern and not re.search(pattern, value):
            raise BadConfig(f"{where} is {value!r}", needed=_PATTERNS.get(pattern, f"text like {pattern}"))
        if len(value) < schema.get("minLength", 0):
            raise BadConfig(f"{where} is empty", next_step="give it a value")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is not None and value < low:
            raise BadConfig(f"{where} is {value}", needed=f"at least {low}")
        if high is not None and value > high:
            raise BadConfig(f"{where} is {value}", needed=f"at most {high}")


_PATTERNS = {
    NAME_PATTERN: "lower-case letters, digits and hyphens, at most 40, a letter or digit first and last",
    _QUANTITY: "a Kubernetes quantity such as 500m, 4 or 8Gi",
    _DIGEST: "sha256: and 64 hexadecimal digits",
    _SHARED: "a folder below artifacts or training_data, such as artifacts/base",
}


def _check_object(value: dict[str, Any], schema: Schema, path: str) -> None:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    forbidden = schema.get("propertyNames", {}).get("not", {}).get("pattern")
    for key, item in value.items():
        if forbidden and re.search(forbidden, str(key)):
            raise BadConfig(
                f"{path}.{key} would stand in clear in the values, the release and run.json",
                next_step=f"put it into a Secret and name that in {path.removesuffix('.env')}.secrets",
            )
        place = f"{path}.{key}" if path else str(key)
        if key in known:
            _check(item, known[key], place)
        elif others is False:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise BadConfig(f"unknown setting {place}", next_step=hint)
        elif isinstance(others, dict):
            _check(item, others, place)
    for key in schema.get("required", []):
        if key not in value:
            raise BadConfig(f"{f'{path}.{key}' if path else key} is missing", next_step="set it")


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    types: dict[str, type] = {
        "string": str,
        "boolean": bool,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    return isinstance(value, types[kind])
