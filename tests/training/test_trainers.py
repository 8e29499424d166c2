"""What the two trainers promise, on a two-layer model that they really train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from jobs.contract.errors import ExitCode
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import read_manifest, verify
from tests import tiny
from tests.training.study import Study

STEPS = ["rm", "dpo"]


@pytest.fixture(scope="module")
def trained(study: Study) -> dict[str, Path]:
    """One finished training of each kind."""
    for step in STEPS:
        assert study.train(step, f"artifacts/{step}/first", "--epochs", 1) == 0
    return {step: study.root / f"artifacts/{step}/first" for step in STEPS}


def initial_weights(study: Study, step: str) -> dict[str, torch.Tensor]:
    """Return the weights that a training starts from, a new head's included."""
    from jobs.models.load import load_causal, load_reward, load_tokenizer

    model = str(study.root / "tiny")
    set_seed(42)
    return dict((load_reward if step == "rm" else load_causal)(model, load_tokenizer(model)).state_dict())


@pytest.mark.parametrize("step", STEPS)
def test_every_parameter_moves(study: Study, trained: dict[str, Path], step: str) -> None:
    """A training changes each weight of the model, the reward head included."""
    after = load_file(trained[step] / "model.safetensors")
    before = initial_weights(study, step)
    assert ("score.weight" in after) == (step == "rm")
    unmoved = [name for name, weight in after.items() if torch.equal(weight, before[name])]
    assert not unmoved


@pytest.mark.parametrize("step", STEPS)
def test_the_same_seed_gives_the_same_numbers(study: Study, trained: dict[str, Path], step: str) -> None:
    """Two runs of one seed end in equal metrics and weights; another seed ends elsewhere."""
    first, again, other = (f"artifacts/{step}/{name}" for name in ("first", "again", "other-seed"))
    assert study.train(step, again, "--epochs", 1) == 0
    assert study.train(step, other, "--epochs", 1, "--seed", 7) == 0
    assert study.published(again) == study.published(first)
    assert study.losses(again) == study.losses(first)
    assert study.metrics(again, "eval") == study.metrics(first, "eval")
    assert study.losses(other) != study.losses(first)


@pytest.mark.parametrize("step", STEPS)
def test_a_published_folder_holds_all_that_a_reader_needs(trained: dict[str, Path], step: str) -> None:
    """Model, tokenizer (twice), settings, card and curves load and verify; pad is not the end-of-text token."""
    folder = trained[step]
    files = {entry.path for entry in verify(folder).files}
    assert {"README.md", "config.json", "curves.png", "model.safetensors", "tokenizer/tokenizer.json"} <= files
    auto = AutoModelForSequenceClassification if step == "rm" else AutoModelForCausalLM
    model = auto.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    settings = orjson.loads((folder / "config.json").read_bytes())["alignment"]
    assert settings["step"] == step
    assert settings["rows"] == {"rows_read": 24, "rows_used": 24, "rows_truncated": 0}
    assert settings["chat_template"] is True
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "24 pairs" in card
    assert settings["inputs"]["dataset"] in card
    assert (folder / "training.log").read_text(encoding="utf-8")
    assert not (folder / "unfinished.json").exists()


def test_a_finished_folder_is_left_as_it_is_unless_overwritten(
    study: Study, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again does nothing; other settings are refused, and replace it with --overwrite."""
    output = "artifacts/rm/finished"
    assert study.train("rm", output, "--max-steps", 1) == 0
    before = read_manifest(study.root / output)
    assert study.train("rm", output, "--max-steps", 1) == 0
    assert read_manifest(study.root / output) == before
    assert study.train("rm", output, "--max-steps", 2) == ExitCode.CONFIG
    assert "made with other settings (max_steps)" in capsys.readouterr().err
    assert read_manifest(study.root / output) == before
    assert study.train("rm", output, "--max-steps", 2, "--overwrite") == 0
    assert len(study.losses(output)) == 2


def test_a_second_writer_is_refused(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """While one process writes a folder, another that wants it ends with 74 and touches nothing."""
    output = study.root / "artifacts/rm/busy"
    with FolderLock(output, attempt="other"):
        assert study.train("rm", "artifacts/rm/busy") == ExitCode.VOLUME
    assert "is being written by process" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "settings", "code", "words"),
    [
        (("--bf16", "--fp16"), {}, ExitCode.USAGE, "contradict each other"),
        (("--fp16",), {}, ExitCode.ENVIRONMENT, "without GPU"),
        (("--load-4bit",), {}, ExitCode.CONFIG, "--lora-rank 16"),
        (("--load-4bit", "--lora-rank", "4"), {}, ExitCode.ENVIRONMENT, "a CUDA GPU"),
        (("--optim-8bit",), {}, ExitCode.ENVIRONMENT, "a CUDA GPU"),
        (("--lora-rank", "4", "--lora-targets", "q_proj,nonsense"), {}, ExitCode.CONFIG, "no layer is named nonsense"),
        (("--epochs", "0"), {}, ExitCode.CONFIG, "trains nothing"),
        (("--attention", "flash_attention_2"), {}, ExitCode.ENVIRONMENT, "flash-attn"),
        (("--deepspeed", "no.json"), {}, ExitCode.CONFIG, "is no file"),
        (("--processes", "2"), {}, ExitCode.CONFIG, "torchrun --nproc-per-node 2"),
        (("--resume", "artifacts/checkpoint-3"), {}, ExitCode.CONFIG, "not a complete checkpoint"),
        ((), {"dataset": "absent"}, ExitCode.UPSTREAM, "aios data argilla-export"),
        ((), {"dataset": "tiny"}, ExitCode.UPSTREAM, "_SUCCESS.json"),
        ((), {"model": "./absent"}, ExitCode.UPSTREAM, "is not a folder"),
        ((), {"model": "data"}, ExitCode.UPSTREAM, "holds no model"),
        (("--max-length", "4"), {}, ExitCode.USAGE, "max-length"),
    ],
)
def test_bad_input_ends_in_one_line_and_nothing_half_written(
    study: Study, capsys: pytest.CaptureFixture[str], more: Any, settings: Any, code: int, words: str
) -> None:
    """Each contradiction has its exit code and says what to do; no folder counts afterwards."""
    output = "artifacts/rm/never"
    assert study.train("rm", output, *more, "--overwrite", **settings) == code
    errors = capsys.readouterr().err
    assert words in errors
    assert "Traceback" not in errors
    assert read_manifest(study.root / output) is None


def test_an_output_that_cannot_be_written_is_said_so(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the way of the output folder is a fault of the volume, not a crash."""
    (study.root / "in-the-way").write_text("x")
    assert study.train("rm", "in-the-way/rm") == ExitCode.VOLUME
    assert "in-the-way" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """Divergence ends with 71, the step and the last good checkpoint, whose weights are finite."""
    output = "artifacts/dpo/diverged"
    more = ("--lr", "1e30", "--max-grad-norm", "0", "--save-steps", "1", "--lr-scheduler", "constant")
    assert study.train("dpo", output, *more) == ExitCode.DIVERGED
    errors = capsys.readouterr().err
    assert "needed: finite numbers" in errors
    assert "the last good checkpoint is" in errors
    checkpoint = errors.split("the last good checkpoint is ")[1].split()[0]
    weights = load_file(study.root / checkpoint / "model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    assert read_manifest(study.root / output) is None


def test_a_dry_run_says_what_would_happen_and_writes_nothing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run prints settings, rows and estimates on stdout; the workspace stays as it was."""
    before = sorted(study.root.rglob("*"))
    assert study.train("dpo", "artifacts/dpo/plan", "--dry-run") == 0
    plan = capsys.readouterr().out
    for words in ("train, rows_used", "steps", "memory, total", "time", "beta", "pad"):
        assert words in plan
    assert sorted(study.root.rglob("*")) == before


def test_a_model_too_large_for_the_machine_is_refused_before_it_is_loaded(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, gradients and optimizer are estimated from the files' headers; the advice starts with what is cheap."""
    import json
    import shutil
    import struct

    giant = study.root / "giant"
    shutil.copytree(study.root / "tiny", giant, dirs_exist_ok=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**7, 10**6], "data_offsets": [0, 0]}}).encode()
    (giant / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert study.train("dpo", "artifacts/dpo/giant", model="giant") == ExitCode.ENVIRONMENT
    errors = capsys.readouterr().err
    assert "before the first batch" in errors
    assert errors.index("--batch-size 2") < errors.index("--lora-rank 16")


def test_every_row_is_accounted_for(study: Study) -> None:
    """Rows that cannot be learnt from are dropped by name; the rest is used, and the metrics add up."""
    rows = [
        {"prompt": "how do I make tea", "chosen": "thanks for asking", "rejected": "no idea"},
        {"prompt": "how do I make tea", "chosen": "the same", "rejected": "the same"},
        {
            "prompt": "how do I " * 40,
            "chosen": "a clear answer " * 30 + "one",
            "rejected": "a clear answer " * 30 + "two",
        },
        {"prompt": "how " * 80, "chosen": "yes please", "rejected": "go away"},
    ]
    tiny.publish_rows(study.root / "odd", {"train": rows, "eval": rows[:1], "test": rows[:1]})
    assert study.train("rm", "artifacts/rm/odd", "--max-length", 32, dataset="odd") == 0
    data = study.metrics("artifacts/rm/odd", "data")[0]
    assert data == {
        "kind": "data", "step": 0, "split": "train", "rows_read": 4, "rows_used": 2, "rows_truncated": 1,
        "dropped_identical_tokens": 1, "dropped_identical_after_truncation": 1,
    }  # fmt: skip


def test_early_stopping_publishes_the_best_model(study: Study) -> None:
    """A run whose eval loss rises stops, and its published model is the one of the best evaluation."""
    output = "artifacts/rm/early"
    more = ("--epochs", 40, "--eval-steps", 2, "--early-stopping", 2, "--lr", 0.3, "--lr-scheduler", "constant")
    assert study.train("rm", output, *more) == 0
    summary = study.metrics(output, "summary")[0]
    evals = study.metrics(output, "eval")
    assert summary["steps"] < 240
    assert evals[-1]["eval_loss"] == min(line["eval_loss"] for line in evals if line["step"])
    assert summary["eval_loss_last"] == evals[-1]["eval_loss"]


def test_centering_pulls_rewards_to_zero(study: Study) -> None:
    """--center-rewards adds its penalty to the loss, and the scores move towards 0."""
    output = "artifacts/rm/centred"
    assert study.train("rm", output, "--epochs", 2, "--lr", 0.01, "--center-rewards", 10) == 0
    evals = study.metrics(output, "eval")
    assert abs(evals[-1]["eval_reward_mean"]) < abs(evals[0]["eval_reward_mean"]) / 2


LOG_2 = 0.6931472
FIRST_LOSS = {
    "hinge": 1, "ipo": 25, "nca_pair": 2 * LOG_2, "bco_pair": 2 * LOG_2, "sppo_hard": 50, "apo_zero": 1, "apo_down": 1,
    "aot": LOG_2, "aot_unpaired": LOG_2, "sigmoid_norm": LOG_2, "discopop": 0.8465736,
}  # fmt: skip
"""Each loss where policy and reference agree: 1/(2 beta)^2 for ipo, 1/(2 beta^2) for sppo_hard, and so on."""


@pytest.mark.parametrize(
    "loss_type", [pytest.param(t, marks=() if t == "ipo" else pytest.mark.train) for t in FIRST_LOSS]
)
def test_loss_types_reach_trl(study: Study, loss_type: str) -> None:
    """--loss-type chooses another loss, which starts where its formula says."""
    output = f"artifacts/dpo/{loss_type}"
    assert study.train("dpo", output, "--max-steps", 1, "--loss-type", loss_type) == 0
    assert study.losses(output)[0] == pytest.approx(FIRST_LOSS[loss_type], rel=1e-5)


def test_every_loss_of_trl_is_offered() -> None:
    """The choices of --loss-type are those that TRL's trainer computes."""
    import inspect
    import re

    from trl import DPOTrainer

    from jobs.config.dpo import DPOConfig
    from jobs.config.fields import field_specs

    known = set(re.findall(r'loss_type == "(\w+)"', inspect.getsource(DPOTrainer)))
    offered = next(spec.choices for spec in field_specs(DPOConfig) if spec.name == "loss_type")
    assert set(offered or ()) == known
