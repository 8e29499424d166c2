"""What the chart takes from the code: its defaults, its schema, the commands of the steps.

python -m k8s.chart        write them into charts/run; a test compares
"""

from __future__ import annotations

import json
from pathlib import Path

from jobs.config.fields import field_specs
from k8s.schema import values_schema
from k8s.steps import STEPS
from k8s.values import PROFILES, compose, to_yaml

HERE = Path(__file__).parent


def chart_folder(name: str = "run") -> Path:
    """Return the folder of a chart: in a checkout beside this package, in an installation inside it."""
    inside = HERE / "charts" / name
    return inside if inside.is_dir() else HERE.parent / "charts" / name


def demo_values() -> str:
    """Return the demo's values, so that `helm install` needs nothing of ours on the machine."""
    demo = chart_folder().parent.parent / "config" / "demo.yaml"
    text = to_yaml(compose("kind-cpu", files=[demo], name="demo"))
    return (
        "# `aios jobs render --profile kind-cpu --values config/demo.yaml --name demo`, for machines without it.\n"
        + text
    )


def generated_files() -> dict[str, str]:
    """Return path in charts/run -> content."""
    steps = {
        step.name: {
            "command": list(step.command),
            "output": step.output,
            "manifest": step.manifest,
            "settings": [
                {"name": spec.name, "flag": spec.flag, "kind": {bool: "boolean", int: "integer"}.get(spec.kind, "text")}
                for spec in field_specs(step.config)
            ],
        }
        for step in STEPS.values()
    }
    return {
        "values.yaml": (PROFILES / "defaults.yaml").read_text(encoding="utf-8"),
        "values.schema.json": json.dumps(values_schema(), indent=2) + "\n",
        "files/steps.json": json.dumps(steps, indent=1) + "\n",
        "demo-values.yaml": demo_values(),
    }


if __name__ == "__main__":
    for path, content in generated_files().items():
        (chart_folder() / path).write_text(content, encoding="utf-8")
