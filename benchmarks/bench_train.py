"""Training side by side: ours, stock TRL 1.16 and tuned TRL, alternating, on the same pairs, model, seed and steps.

    python benchmarks/bench_train.py [--cases main 64 256 1024 lora] [--kinds rm dpo]

The pairs are those of --export; for the case 1024 several answers are joined until they are that long. Every
measurement is a process of its own; figures are medians over repetitions. Stock is TRL's defaults (gradient
checkpointing on, the reference model asked at every step); tuned has checkpointing off and the reference precomputed,
whose time is in the start, as it is in ours. Ours also evaluates before the first step, which the others do not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

VARIANTS = ("ours", "stock", "tuned")
PANDALM = Path("../shared/data/human/pandalm.argilla.jsonl")
EVAL_PAIRS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is trained: pairs a step, longest sequence, adapters, and how often that is repeated."""

    batch_size: dict[str, int]
    max_length: int
    lora_rank: int = 0
    repetitions: int = 3


CASES = {
    "main": Case(batch_size={"rm": 8, "dpo": 4}, max_length=512, repetitions=5),
    "64": Case(batch_size={"rm": 8, "dpo": 8}, max_length=64),
    "256": Case(batch_size={"rm": 8, "dpo": 4}, max_length=256),
    "1024": Case(batch_size={"rm": 2, "dpo": 2}, max_length=1024),
    "lora": Case(batch_size={"rm": 8, "dpo": 4}, max_length=512, lora_rank=16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="artifacts/base/smollm2-135m-instruct")
    parser.add_argument(
        "--export", default=PANDALM if PANDALM.exists() else "training_data/sample/argilla_export.jsonl"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kinds", nargs="+", choices=("rm", "dpo"), default=["rm", "dpo"])
    parser.add_argument("--steps", type=int, default=6, help="the first is not timed")
    parser.add_argument("--repetitions", type=int, help="instead of the case's own")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, kind, case, data, started = options.worker
        print(json.dumps(measure(variant, kind, CASES[case], Path(data), float(started), options)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        rows = ingested(options.export, Path(name))
        for case in options.cases:
            for kind in options.kinds:
                data = published(rows, kind, case, options.steps, Path(name) / case / kind)
                results: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
                for repetition in range(options.repetitions or CASES[case].repetitions):
                    # Another one begins each time: whoever comes first in a quiet minute must not always be the same.
                    for variant in VARIANTS[repetition % 3 :] + VARIANTS[: repetition % 3]:
                        results[variant].append(start(variant, kind, case, data))
                report(kind, case, results)


def ingested(export: str | Path, folder: Path) -> list[dict[str, Any]]:
    """Return the valid pairs of an export, shuffled."""
    command = [sys.executable, "-m", "jobs.cli", "data", "argilla-export", "--input", str(export)]
    command += ["--output", str(folder / "all"), "--train-ratio", "1", "--eval-ratio", "0", "--test-ratio", "0"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    rows = [json.loads(line) for line in (folder / "all/train.jsonl").read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    return rows


def published(rows: list[dict[str, Any]], kind: str, case: str, steps: int, folder: Path) -> Path:
    """Publish the pairs that the steps need and a few to evaluate on: tuned TRL asks its reference about all."""
    from tests.tiny import publish_rows

    rows = long_rows(rows, characters=4500) if case == "1024" else rows
    held_out = max(4, min(EVAL_PAIRS, len(rows) // 4))
    train = rows[held_out : held_out + steps * CASES[case].batch_size[kind]]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return publish_rows(folder, {"train": train, "eval": rows[:held_out], "test": rows[:1]})


def long_rows(rows: list[dict[str, Any]], characters: int) -> list[dict[str, Any]]:
    """Join the answers of several pairs until both have so many characters."""
    made, parts = [], []
    for row in rows:
        parts.append(row)
        if min(sum(len(part[side]) for part in parts) for side in ("chosen", "rejected")) >= characters:
            joined = {side: "\n\n".join(part[side] for part in parts) for side in ("chosen", "rejected")}
            made.append({"prompt": parts[0]["prompt"]} | joined)
            parts = []
    return made


def start(variant: str, kind: str, case: str, data: Path) -> dict[str, Any]:
    """Measure one variant in a process of its own."""
    started = time.time()
    worker = ["--worker", variant, kind, case, str(data), str(started)]
    process = subprocess.run([sys.executable, __file__, *sys.argv[1:], *worker], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result | {"process_s": time.time() - started}


def measure(
    variant: str, kind: str, case: Case, data: Path, started: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Train and return what was measured; runs in the worker."""
    import resource

    folder = Path(tempfile.mkdtemp(prefix="bench-train-"))
    try:
        if variant == "ours":
            result = ours(kind, case, data, options, folder)
        else:
            result = trl(kind, case, data, options, folder, variant == "tuned")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result["start_s"] = result.pop("first_step_at") - started
    return result | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(kind: str, case: Case, dataset: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from jobs.cli import run
    from jobs.contract.metrics import read_metrics

    model = Path(options.model).resolve()
    os.chdir(folder)  # the reference cache lies in the workspace: here it starts empty
    flag = "--base-model" if kind == "rm" else "--policy-model"
    line = [
        "hrm-hf", f"{kind}-train", flag, model, "--dataset-dir", dataset, "--output-dir", "out", "--max-steps",
        options.steps, "--batch-size", case.batch_size[kind], "--max-length", case.max_length, "--lr", 1e-5,
        "--precision", options.precision, "--eval-steps", 10**6, "--save-steps", 10**6,
        "--lora-rank", case.lora_rank,
    ]  # fmt: skip
    code = run([str(part) for part in line])
    if code:
        raise SystemExit(code)
    lines = read_metrics(folder / "out" / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    return {
        "steps_s": [line["step_time_s"] for line in train],
        "losses": [line["loss"] for line in train],
        "tokens": train[-1]["num_tokens"],
        "eval_loss": lines[-1]["eval_loss_last"],
        "first_step_at": train[0]["time"] - train[0]["step_time_s"],
    }


def trl(kind: str, case: Case, dataset: Path, options: argparse.Namespace, folder: Path, tuned: bool) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback, set_seed
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from jobs.models.load import load_tokenizer

    os.environ["TQDM_DISABLE"] = "1"
    data = {name: chats(dataset / f"{name}.jsonl") for name in ("train", "eval")}
    tokenizer = load_tokenizer(options.model)
    seconds: list[float] = []
    began: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()
            began.append(time.time())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": options.steps,
        "per_device_train_batch_size": case.batch_size[kind],
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.01,
        "bf16": options.precision == "bf16",
        "use_cpu": True,
        "logging_steps": 1,
        "seed": 42,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "max_length": case.max_length,
    }
    if tuned:
        arguments["activation_checkpointing"] = False
    # The same adapters as ours: rank, twice the rank as alpha, all linear layers.
    lora = (
        LoraConfig(
            r=case.lora_rank,
            lora_alpha=2 * case.lora_rank,
            target_modules="all-linear",
            task_type="SEQ_CLS" if kind == "rm" else "CAUSAL_LM",
        )
        if case.lora_rank
        else None
    )
    common: dict[str, Any] = {
        "train_dataset": Dataset.from_list(data["train"]),
        "eval_dataset": Dataset.from_list(data["eval"]),
        "processing_class": tokenizer,
        "peft_config": lora,
        "callbacks": [Clock()],
    }
    set_seed(42)
    if kind == "rm":
        model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype="float32")
        trainer = RewardTrainer(model=model, args=RewardConfig(**arguments), **common)
    else:
        # Stock loads its reference model from the policy's path by itself.
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32")
        trainer = DPOTrainer(model=model, args=DPOConfig(**arguments, precompute_ref_log_probs=tuned), **common)
    trainer.train()
    history = [line for line in trainer.state.log_history if "loss" in line]
    return {
        "steps_s": seconds,
        "losses": [line["loss"] for line in history],
        "tokens": history[-1]["num_tokens"],
        "eval_loss": trainer.evaluate()["eval_loss"],
        "first_step_at": began[0],
    }


def chats(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a split as chats, which is what our template makes of plain text."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if isinstance(row["prompt"], str):
            row = {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")},
            }
        rows.append(row)
    return rows


def report(kind: str, case: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print rows of a Markdown table: medians over the repetitions, and how many times ours is faster."""
    pairs = CASES[case].batch_size[kind]
    for runs in results.values():
        for run in runs:
            # The first step warms caches and allocators up; the others differ, since their pairs do.
            run["step_s"] = statistics.mean(run["steps_s"][1:])

    def median(variant: str, key: str) -> float:
        return statistics.median(result[key] for result in results[variant])

    print(f"\n{kind}, {case}: {pairs} pairs a step, {len(results['ours'])} repetitions")
    print(
        "| tool | pairs/s | ours is faster | start to first step, s | whole process, s | peak MB | eval loss | loss |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    first = results["stock"][0]
    for variant in VARIANTS:
        run, step = results[variant][0], median(variant, "step_s")
        difference = max(abs(a - b) for a, b in zip(run["losses"], first["losses"], strict=True))
        cells = [
            variant,
            f"{pairs / step:.2f}",
            f"{step / median('ours', 'step_s'):.2f}",
            f"{median(variant, 'start_s'):.1f}",
            f"{median(variant, 'process_s'):.1f}",
            f"{median(variant, 'peak_mb'):.0f}",
            f"{run['eval_loss']:.4f}",
            f"{difference:.1e}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
