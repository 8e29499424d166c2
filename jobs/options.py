"""Turns a config dataclass into a click command: one option per field, help from the docstring under it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from jobs.config.fields import FieldSpec, field_specs
from jobs.contract.log import set_up_logging


def config_options(config: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Decorate `f(config)` so that click calls it with an instance of `config` made from the options."""

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            set_up_logging()
            function(config(**_resolve(config, values)))

        decorated: Callable[..., None] = command
        for spec in reversed(field_specs(config)):
            for option in reversed(_options(spec)):
                decorated = option(decorated)
        return decorated

    return decorate


def _options(spec: FieldSpec) -> list[Callable[[Any], Any]]:
    """Return the click options of one field: its own flag, and one switch for each shorthand."""
    if spec.metadata.get("positional"):
        return [click.argument(spec.name, nargs=-1, required=spec.required, metavar=spec.metadata.get("metavar"))]
    shorthand = spec.metadata.get("flags", {})
    settings: dict[str, Any] = {"help": spec.help, "metavar": spec.metadata.get("metavar")}
    if spec.kind is bool:
        return [
            click.option(
                f"{spec.flag}/--no-{spec.flag[2:]}",
                spec.name,
                default=spec.default,
                show_default=True,
                help=spec.help,
            )
        ]
    if not spec.required and not shorthand:
        settings |= {"default": list(spec.default) if spec.multiple else spec.default}
        settings |= {"show_default": not spec.multiple and spec.default is not None}
    if spec.required:
        settings["required"] = True
    if shorthand:
        settings["help"] += f"  [default: {spec.default}]"
    options = [click.option(spec.flag, spec.name, type=_type(spec), multiple=spec.multiple, **settings)]
    for flag, value in shorthand.items():
        name = _shorthand_name(spec, flag)
        options.append(click.option(flag, name, is_flag=True, default=False, help=f"The same as {spec.flag} {value}."))
    return options


def _type(spec: FieldSpec) -> click.ParamType[Any] | type:
    if spec.choices:
        return click.Choice(spec.choices)
    low, high = spec.metadata.get("min"), spec.metadata.get("max")
    if low is not None or high is not None:
        return click.IntRange(low, high) if spec.kind is int else click.FloatRange(low, high)
    return spec.kind


def _shorthand_name(spec: FieldSpec, flag: str) -> str:
    return f"_{spec.name}_{flag.strip('-').replace('-', '_')}"


def _resolve(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """Fold the shorthand switches into their fields; two that disagree are a usage error."""
    resolved: dict[str, Any] = {}
    for spec in field_specs(config):
        value = values[spec.name]
        chosen = {} if value is None or not spec.metadata.get("flags") else {f"{spec.flag} {value}": value}
        for flag, meaning in spec.metadata.get("flags", {}).items():
            if values.pop(_shorthand_name(spec, flag)):
                chosen[flag] = meaning
        if len(set(chosen.values())) > 1:
            raise click.UsageError(f"{' and '.join(chosen)} contradict each other; give one of them")
        if spec.metadata.get("flags"):
            value = next(iter(chosen.values()), spec.default)
        resolved[spec.name] = tuple(value) if spec.multiple else value
    return resolved
