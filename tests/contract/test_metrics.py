"""metrics.jsonl and the config dataclasses behind the commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.config.dpo import DPOConfig
from jobs.config.fields import field_docs, field_specs, from_mapping, identity, to_arguments
from jobs.config.ingest import IngestConfig
from jobs.config.rm import RMConfig
from jobs.contract.errors import BadConfig
from jobs.contract.metrics import MetricsWriter, read_metrics

FOLDERS = {"dataset_dir": "d", "output_dir": "o"}


def test_a_resumed_file_holds_each_step_once(tmp_path: Path) -> None:
    """Lines after the checkpoint are cut, a torn last line is dropped, and NaN is written as null."""
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in range(1, 6):
        writer.write("train", step, loss=float(step))
    writer.close()
    with path.open("ab") as file:
        file.write(b'{"kind":"train","step":6,"lo')
    resumed = MetricsWriter(path, resume_step=3)
    resumed.write("train", 4, loss=float("nan"))
    resumed.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, None)]


def test_a_run_that_goes_on_from_its_last_step_writes_its_end_once(tmp_path: Path) -> None:
    """Killed before it was published, a run has a summary and perhaps a closing evaluation: both are written anew."""
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for kind, step in (("data", 0), ("data", 0), ("eval", 0), ("train", 4), ("eval", 4), ("eval", 4), ("summary", 4)):
        writer.write(kind, step)
    writer.close()
    MetricsWriter(path, resume_step=4).close()
    kept = [(line["kind"], line["step"]) for line in read_metrics(path)]
    assert kept == [("data", 0), ("data", 0), ("eval", 0), ("train", 4), ("eval", 4)]


def test_every_setting_is_documented() -> None:
    """A field without a docstring does not get past the reader of configs."""

    @dataclass(frozen=True, kw_only=True)
    class Undocumented:
        value: int = 1

    with pytest.raises(TypeError, match="no docstring under value"):
        field_docs(Undocumented)


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (RMConfig, ("--base-model --dataset-dir --output-dir --epochs=1.0 --lr=2e-05 --batch-size=8 --max-steps "
         "--gradient-accumulation=1 --lr-scheduler=cosine --warmup-ratio=0.03 --weight-decay=0.01 --max-length=1024 "
         "--eval-steps=100 --save-steps=200 --deepspeed --wandb")),
        (DPOConfig, ("--policy-model --ref-model --dataset-dir --output-dir --epochs=1.0 --lr=5e-06 --batch-size=4 "
         "--beta=0.1 --label-smoothing=0.0 --max-length=1024 --eval-steps=100 --save-steps=200")),
        (IngestConfig, ("--input --output --format=trl --train-ratio=0.9 --eval-ratio=0.05 --test-ratio=0.05 "
         "--min-prompt-toks=3 --max-prompt-toks=2048 --dedup-by=prompt+chosen+rejected --anonymize=False "
         "--shuffle-seed=42")),
    ],
)  # fmt: skip
def test_the_promised_flags_and_defaults_stand(config: type, flags: str) -> None:
    """The flags that the guide fixes exist under their names, with their defaults."""
    specs = {spec.flag: spec for spec in field_specs(config)}
    for flag in flags.split():
        name, _, default = flag.partition("=")
        assert name in specs
        if default:
            assert str(specs[name].default) == default


def test_values_become_arguments_by_one_rule() -> None:
    """Lists repeat a flag, booleans choose one, null is left out, unknown keys are refused."""
    values = {"input": ["a", "b"], "output": "o", "anonymize": False, "fail_under": None, "shuffle_seed": 7}
    arguments = to_arguments(IngestConfig, values)
    assert arguments == ["--input", "a", "--input", "b", "--output", "o", "--no-anonymize", "--shuffle-seed", "7"]
    with pytest.raises(BadConfig, match="unknown setting shufle_seed"):
        to_arguments(IngestConfig, {"shufle_seed": 7})
    with pytest.raises(BadConfig, match="lacks input, output"):
        from_mapping(IngestConfig, {})


def test_settings_that_change_nothing_are_not_compared() -> None:
    """Another output folder or checkpoint interval is the same result; another learning rate is not."""
    first = identity(RMConfig(base_model="m", **FOLDERS))
    assert first == identity(RMConfig(base_model="m", **(FOLDERS | {"output_dir": "p"}), save_steps=7))
    assert first != identity(RMConfig(base_model="m", **FOLDERS, lr=1e-3))


def test_ratios_must_add_up() -> None:
    """Split ratios that do not add up to 1 are refused with their sum."""
    with pytest.raises(BadConfig, match=r"add up to 1\.1"):
        IngestConfig(input=("a",), output="o", train_ratio=1.0)
