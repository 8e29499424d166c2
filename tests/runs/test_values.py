"""Values: what a run says of itself, and the typos that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs.config.fields import field_specs
from jobs.contract.errors import BadConfig
from k8s import values as v
from k8s.steps import STEPS

BASE = ["steps.ingest.args.input=[a.jsonl]"]


def compose(*settings: str, **more: object) -> v.Values:
    return v.compose("local", settings=[*BASE, *settings], name=str(more.pop("name", "demo")), **more)  # type: ignore[arg-type]


def test_folders_follow_from_the_name() -> None:
    """Every step is told explicitly what it reads and where it publishes."""
    steps = compose()["steps"]
    assert steps["ingest"]["args"]["output"] == "training_data/curated_datasets/demo"
    assert (
        steps["rm"]["args"]["dataset_dir"] == steps["dpo"]["args"]["dataset_dir"] == steps["ingest"]["args"]["output"]
    )
    assert [steps[name]["args"]["output_dir"] for name in ("rm", "dpo", "evaluation")] == [
        "artifacts/rm/demo",
        "artifacts/dpo/demo",
        "artifacts/evaluation/demo",
    ]
    assert steps["evaluation"]["args"]["policy_model"] == "artifacts/dpo/demo"


def test_the_result_is_stable() -> None:
    """Composing a composed document again changes nothing: what render prints is what is submitted."""
    values = compose("steps.dpo.args.beta=0.2", "steps.fetch-model.enabled=true")
    assert v.complete(values) == values
    assert yaml.safe_load(v.to_yaml(values)) == values


def test_files_and_settings_win_in_order(tmp_path: Path) -> None:
    """Profile <- files <- --set, and --name and --input above all."""
    file = tmp_path / "values.yaml"
    file.write_text("run: {dataset: shared}\nsteps: {rm: {args: {lr: 2e-5, batch_size: 4}}}")
    values = compose("steps.rm.args.batch_size=2", files=[file], inputs=["b.jsonl"])
    assert values["run"] == {"name": "demo", "dataset": "shared"}
    assert values["steps"]["rm"]["args"]["lr"] == 2e-5
    assert values["steps"]["rm"]["args"]["batch_size"] == 2
    assert values["steps"]["ingest"]["args"]["input"] == ["b.jsonl"]


def test_commands_are_those_of_the_runbook() -> None:
    """Arguments come in the order of the config's fields, in the two-word form."""
    step = compose("steps.rm.args.max_steps=100", "steps.rm.args.gradient_checkpointing=true")["steps"]["rm"]
    assert v.command("rm", step) == [
        "aios", "hrm-hf", "rm-train", "--base-model", "artifacts/base/smollm2-135m-instruct",
        "--dataset-dir", "training_data/curated_datasets/demo", "--output-dir", "artifacts/rm/demo",
        "--max-steps", "100", "--gradient-checkpointing",
    ]  # fmt: skip


def test_steps_that_are_off_are_needed_by_nobody() -> None:
    """A disabled step is dropped from needs; the order of the others stays."""
    values = compose("steps.rm.enabled=false")
    assert values["steps"]["dpo"]["needs"] == ["ingest"]
    assert "reward_model" not in values["steps"]["evaluation"]["args"]
    assert list(v.enabled_steps(values)) == ["ingest", "dpo", "evaluation"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps.dpo.args.betta=1", "unknown setting steps.dpo.args.betta; did you mean beta?"),
        ("steps.dpoo.enabled=true", "unknown setting steps.dpoo; did you mean dpo?"),
        ("step.dpo.enabled=true", "unknown setting step; did you mean steps?"),
        ("steps.rm.args.lr=fast", "steps.rm.args.lr is 'fast'; needed: a value of type number"),
        ("steps.rm.args.precision=fp8", "steps.rm.args.precision is 'fp8'"),
        ("steps.rm.args.warmup_ratio=2", "steps.rm.args.warmup_ratio is 2; needed: at most 1"),
        ("steps.rm.needs=[evaluation]", "need each other"),
        ("run.name=Demo_1", "lower-case letters"),
        ("steps.rm.args.lr", "needed: KEY.KEY=VALUE"),
        ("steps.ingest.args.train_ratio=0.99", "steps.ingest.args: the ratios add up to"),
        ("steps.rm.resources.limits.memory=lots", "a Kubernetes quantity"),
    ],
)
def test_what_does_not_fit_is_one_line(setting: str, said: str) -> None:
    """A typo or a value out of range is refused before anything starts, by its place and with the nearest name."""
    name = "" if setting.startswith("run.name") else "demo"
    with pytest.raises(BadConfig) as caught:
        v.compose("local", settings=[*BASE, setting], name=name)
    assert said in str(caught.value)


def test_one_word_per_step_everywhere() -> None:
    """Steps in the defaults, in the table and in the schema are the same, in the same order."""
    defaults = v.read_values(v.PROFILES / "defaults.yaml")
    assert list(defaults["steps"]) == list(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_flags_are_the_names_of_settings(name: str) -> None:
    """The chart turns `batch_size` into --batch-size without a table, so no setting may have another flag."""
    assert all(spec.flag == "--" + spec.name.replace("_", "-") for spec in field_specs(STEPS[name].config))


@pytest.mark.parametrize("profile", v.profile_names())
def test_every_profile_composes(profile: str) -> None:
    """Each packaged profile makes a complete run with nothing but an input."""
    values = v.compose(profile, inputs=["a.jsonl"], name="demo")
    assert list(v.enabled_steps(values))[-4:] == ["ingest", "rm", "dpo", "evaluation"]


def test_numbers_are_read_as_helm_reads_them() -> None:
    """2e-5 is a number, 7 a whole one, a quoted one text."""
    assert v.read_yaml("[2e-5, 7, -1.5, '3', 1e3, .5]", "x") == [2e-5, 7, -1.5, "3", 1000.0, 0.5]
    assert isinstance(v.read_yaml("7", "x"), int)


def test_dots_in_names_are_escaped() -> None:
    """A label such as nvidia.com/gpu.present can be set, and its value is text."""
    assert v.parse_setting(r"steps.dpo.nodeSelector.nvidia\.com/gpu\.present=true") == {
        "steps": {"dpo": {"nodeSelector": {"nvidia.com/gpu.present": "true"}}}
    }
