"""Reading a config dataclass: types, defaults and the docstrings under its fields."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from jobs.contract.errors import BadConfig


def option(default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    """Declare a config field with more than a type and a default.

    Keys: `flags` ({"--bf16": "bf16"}: shorthand switches for single values), `identity` (False: another value makes
    the same result, so it is not compared when a finished folder is met), `metavar`, `min`, `max`, `name` (the flag
    where it is not the field's name), `positional` (True: words without a flag).
    """
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldSpec:
    """One setting, as the CLI, the schema and the panel need it."""

    name: str
    flag: str
    kind: type
    choices: tuple[str, ...] | None
    multiple: bool
    optional: bool
    required: bool
    default: Any
    help: str
    metadata: typing.Mapping[str, Any]


def field_specs(config: type) -> tuple[FieldSpec, ...]:
    """Return the fields of a config dataclass, its own first, those of base classes last."""
    return _field_specs(config)


@functools.cache
def _field_specs(config: Any) -> tuple[FieldSpec, ...]:
    docs, hints = field_docs(config), typing.get_type_hints(config)
    own = list(inspect.get_annotations(config))
    fields = sorted(dataclasses.fields(config), key=lambda f: f.name not in own)
    return tuple(_spec(field, hints[field.name], docs[field.name]) for field in fields)


def _spec(field: dataclasses.Field[Any], hint: Any, doc: str) -> FieldSpec:
    optional = multiple = False
    choices: tuple[str, ...] | None = None
    if isinstance(hint, types.UnionType):
        optional = True
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        multiple, hint = True, typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return FieldSpec(
        name=field.name,
        flag="--" + field.metadata.get("name", field.name).replace("_", "-"),
        kind=hint,
        choices=choices,
        multiple=multiple,
        optional=optional,
        required=required,
        default=None if required else field.default,
        help=doc,
        metadata=field.metadata,
    )


def field_docs(config: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass and its bases.

    Raises:
        TypeError: a field has none; every setting is explained or it does not exist.
    """
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for statement, following in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(following.value.value).split())
    missing = {field.name for field in dataclasses.fields(config)} - docs.keys()
    if missing:
        raise TypeError(f"{config.__name__}: no docstring under {', '.join(sorted(missing))}")
    return docs


def identity(config: Any) -> dict[str, Any]:
    """Return the settings that decide the result, JSON-ready: what a manifest records and compares."""
    return {
        spec.name: _plain(getattr(config, spec.name))
        for spec in field_specs(type(config))
        if spec.metadata.get("identity", True)
    }


def as_dict(config: Any) -> dict[str, Any]:
    """Return every setting, JSON-ready."""
    return {spec.name: _plain(getattr(config, spec.name)) for spec in field_specs(type(config))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_mapping(config: type, values: typing.Mapping[str, Any]) -> Any:
    """Build a config from a mapping, as a values document holds it; unknown and missing keys are refused.

    Raises:
        BadConfig: a key is unknown or a required one is missing.
    """
    specs = {spec.name: spec for spec in field_specs(config)}
    unknown = sorted(values.keys() - specs.keys())
    if unknown:
        raise BadConfig(f"unknown setting {', '.join(unknown)}", needed=f"one of {', '.join(specs)}")
    missing = [s.name for s in specs.values() if s.required and s.name not in values]
    if missing:
        raise BadConfig(f"{config.__name__} lacks {', '.join(missing)}", next_step="set it")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def to_arguments(config: type, values: typing.Mapping[str, Any]) -> list[str]:
    """Return command-line arguments for settings: the one rule that local runs and the chart share.

    `key: value` becomes `--key value`; true `--key`; false `--no-key`; a list repeats the flag; null is left out.
    """
    specs = {spec.name: spec for spec in field_specs(config)}
    unknown = sorted(values.keys() - specs.keys())
    if unknown:
        raise BadConfig(f"unknown setting {', '.join(unknown)}", needed=f"one of {', '.join(specs)}")
    arguments: list[str] = []
    for name, value in values.items():
        flag = specs[name].flag
        if value is None:
            continue
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                arguments += [flag, str(item)]
    return arguments
