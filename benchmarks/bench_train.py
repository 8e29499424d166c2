"""Training side by side: ours, stock TRL 1.16 and tuned TRL, alternating, on the same pairs, model, seed and steps.

    python benchmarks/bench_train.py --model artifacts/base/smollm2-135m-instruct --dataset-dir DIR

Every measurement is a process of its own. Ratios compare medians over repetitions; `cpu` is the processor time of the
whole process, which a busy machine disturbs less than the clock. Stock is TRL's defaults (gradient checkpointing on,
the reference model asked at every step); tuned has checkpointing off and the reference precomputed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = ("ours", "stock", "tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset-dir", required=True)
    parser.add_argument("--kinds", nargs="+", default=["rm", "dpo"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--worker", nargs=2, metavar=("VARIANT", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(*options.worker, options)))
        return
    for kind in options.kinds:
        results: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for repetition in range(options.repetitions):
            # Another one begins each time: whoever comes first in a quiet minute must not always be the same.
            for variant in VARIANTS[repetition % 3 :] + VARIANTS[: repetition % 3]:
                results[variant].append(start(variant, kind))
        report(kind, results)


def start(variant: str, kind: str) -> dict[str, Any]:
    """Measure one variant in a process of its own."""
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--worker", variant, kind], stdout=subprocess.PIPE, check=True
    )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result | {"process_s": time.perf_counter() - started}


def measure(variant: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and return what was measured; runs in the worker."""
    import resource

    folder = Path(tempfile.mkdtemp(prefix="bench-train-"))
    try:
        result = ours(kind, options, folder) if variant == "ours" else trl(kind, options, folder, variant == "tuned")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return result | {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def ours(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from jobs.cli import run
    from jobs.contract.metrics import read_metrics

    dataset, model = Path(options.dataset_dir).resolve(), Path(options.model).resolve()
    os.chdir(folder)  # the reference cache lies in the workspace: here it starts empty
    flag = "--base-model" if kind == "rm" else "--policy-model"
    line = [
        "hrm-hf", f"{kind}-train", flag, model, "--dataset-dir", dataset, "--output-dir", "out", "--max-steps",
        options.steps, "--batch-size", options.batch_size, "--max-length", options.max_length, "--lr", 1e-5,
        "--precision", options.precision, "--eval-steps", 10**6, "--save-steps", 10**6,
        "--lora-rank", options.lora_rank,
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
    }


def trl(kind: str, options: argparse.Namespace, folder: Path, tuned: bool) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback, set_seed
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from jobs.models.load import load_tokenizer

    os.environ["TQDM_DISABLE"] = "1"
    data = {name: chats(Path(options.dataset_dir) / f"{name}.jsonl") for name in ("train", "eval")}
    tokenizer = load_tokenizer(options.model)
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
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
        "max_length": options.max_length,
    }
    if tuned:
        arguments["activation_checkpointing"] = False
    # The same adapters as ours: rank, twice the rank as alpha, all linear layers.
    lora = (
        LoraConfig(
            r=options.lora_rank,
            lora_alpha=2 * options.lora_rank,
            target_modules="all-linear",
            task_type="SEQ_CLS" if kind == "rm" else "CAUSAL_LM",
        )
        if options.lora_rank
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


def report(kind: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print a table: medians over the repetitions, and how many times ours is faster."""

    def median(variant: str, key: str) -> float:
        return statistics.median(result[key] for result in results[variant])

    for runs in results.values():
        for run in runs:
            # The first step warms caches and allocators up.
            run["step_s"] = statistics.median(run["steps_s"][1:])
    print(f"\n{kind}: step s | samples/s (x ours) | cpu s of the process | process s | peak MB | eval loss | loss diff")
    first = results["stock"][0]
    for variant in VARIANTS:
        run = results[variant][0]
        step = median(variant, "step_s")
        difference = max(abs(a - b) for a, b in zip(run["losses"], first["losses"], strict=True))
        print(
            f"  {variant:6s} {step:7.2f} | {1 / step:6.3f} batches/s ({step / median('ours', 'step_s'):4.2f}x)"
            f" | {median(variant, 'cpu_s'):6.1f} | {median(variant, 'process_s'):6.1f}"
            f" | {median(variant, 'peak_mb'):6.0f} | {run['eval_loss']:.4f} | {difference:.1e}"
        )


if __name__ == "__main__":
    main()
