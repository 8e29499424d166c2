"""Held-out accuracy of reward models: ours beside stock TRL 1.16, same split, seeds, steps, batch, rate and length.

    python benchmarks/rm_accuracy.py --model artifacts/base/smollm2-135m-instruct --input pandalm.argilla.jsonl

One split by prompt; for each seed one model by `aios hrm-hf rm-train` and one by a plain RewardTrainer, each in a
process of its own; every model scores the same held-out pairs in fp32 by its own forward pass, nothing truncated.
Intervals are bootstraps over prompts, the paired difference's too, with the seeds as rows of their prompt.

Ended at any moment, the same command goes on: what is scored stays, what is trained in part continues from its
checkpoint. `--only ours-0 stock-0` does some of it, `--report` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

TOOLS = ("ours", "stock")
SAVE_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--input", required=True, help="Argilla export with the preferences")
    parser.add_argument("--output", default="build/rm-accuracy", help="folder for the split, models and scores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--held-out", type=float, default=0.35, help="share of the pairs that is scored")
    parser.add_argument("--only", nargs="+", metavar="TOOL-SEED", help="train and score these alone")
    parser.add_argument("--report", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--worker", nargs=2, metavar=("TOOL", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = Path(options.output).resolve()
    if options.worker:
        work(options.worker[0], int(options.worker[1]), options, out)
        return
    out.mkdir(parents=True, exist_ok=True)
    keep_to_one_study(options, out)
    data = split(options, out)
    # Seed by seed, so that what is there can be compared whenever it ends.
    runs = options.only or [f"{tool}-{seed}" for seed in options.seeds for tool in TOOLS]
    for run in [] if options.report else runs:
        if not scores_file(out, run).exists():
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--worker", *run.rsplit("-", 1)], check=True)
    report(options, out, data)


def keep_to_one_study(options: argparse.Namespace, out: Path) -> None:
    """Refuse to mix results of other settings into a folder."""
    names = ("model", "input", "steps", "batch_size", "lr", "max_length", "precision", "held_out")
    settings = {name: getattr(options, name) for name in names}
    settings |= {name: str(Path(settings[name]).resolve()) for name in ("model", "input")}
    path = out / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{out} holds results of other settings ({path}); choose another --output")
    path.write_text(json.dumps(settings, indent=2))


def split(options: argparse.Namespace, out: Path) -> Path:
    """Ingest once; train, eval and test never share a prompt. What is scored is test alone."""
    data = out / "data"
    if not (data / "_SUCCESS.json").exists():
        from jobs.cli import run

        # eval.jsonl is a few rows: our trainer asks for one, and neither tool learns from it.
        ratios = (f"{1 - options.held_out - 0.02:.4f}", "0.02", f"{options.held_out:.4f}")
        flags = zip(("--train-ratio", "--eval-ratio", "--test-ratio"), ratios, strict=True)
        line = ["data", "argilla-export", "--input", options.input, "--output", str(data), "--format", "trl"]
        if run(line + [word for flag in flags for word in flag]):
            raise SystemExit("the export could not be ingested")
    return data


def work(tool: str, seed: int, options: argparse.Namespace, out: Path) -> None:
    """Train one model, score the held-out pairs, keep the scores; runs in the worker."""
    folder = out / f"{tool}-{seed}"
    started = time.perf_counter()
    facts = (ours if tool == "ours" else stock)(seed, options, out / "data", folder)
    facts["train_s"] = round(time.perf_counter() - started, 1)  # of the last attempt
    scores = score(folder / "model" if tool == "stock" else folder, out / "data")
    path = scores_file(out, folder.name)
    path.with_suffix(".part").write_text(json.dumps({"facts": facts, "scores": scores}))
    path.with_suffix(".part").replace(path)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def ours(seed: int, options: argparse.Namespace, data: Path, folder: Path) -> dict[str, Any]:
    """Train by the command line; a stop or a kill costs what came after the last checkpoint."""
    from jobs.cli import run
    from jobs.contract.metrics import read_metrics

    line = [
        "hrm-hf", "rm-train", "--base-model", options.model, "--dataset-dir", data, "--output-dir", folder,
        "--max-steps", options.steps, "--batch-size", options.batch_size, "--lr", options.lr,
        "--max-length", options.max_length, "--precision", options.precision, "--seed", seed,
        "--eval-steps", 10**6, "--save-steps", SAVE_STEPS,
    ]  # fmt: skip
    code = run([str(part) for part in line])
    if code:
        raise SystemExit(code)
    lines = read_metrics(folder / "metrics.jsonl")
    rows = next(row for row in lines if row["kind"] == "data" and row["split"] == "train")
    losses = [row["loss"] for row in lines if row["kind"] == "train"]
    return {"pairs": rows["rows_used"], "losses": losses}


def stock(seed: int, options: argparse.Namespace, data: Path, folder: Path) -> dict[str, Any]:
    """Train as TRL's documentation does: the trainer loads model and tokenizer, encodes and filters by itself."""
    from datasets import Dataset
    from transformers import set_seed
    from trl import RewardConfig, RewardTrainer

    from benchmarks.bench_train import chats

    checkpoints = folder / "checkpoints"
    set_seed(seed)
    trainer = RewardTrainer(
        model=options.model,
        args=RewardConfig(
            output_dir=str(checkpoints),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.lr,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            weight_decay=0.01,
            max_length=options.max_length,
            bf16=options.precision == "bf16",
            use_cpu=True,
            activation_checkpointing=False,  # the same gradients sooner
            model_init_kwargs={"dtype": "float32"},
            logging_steps=1,
            save_steps=SAVE_STEPS,
            save_total_limit=2,
            seed=seed,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(chats(data / "train.jsonl")),
    )
    # The state is written last, so a checkpoint that has it is whole.
    whole = sorted(checkpoints.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    trainer.train(resume_from_checkpoint=str(whole[-1].parent) if whole else None)
    trainer.save_model(str(folder / "model"))
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"pairs": len(trainer.train_dataset), "losses": losses}


def score(model_folder: Path, data: Path) -> list[list[float]]:
    """Return [chosen, rejected] scores of every held-out pair, one sequence at a time: no padding, no truncation."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from benchmarks.bench_train import chats

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32).eval()
    scores = []
    with torch.inference_mode():
        for row in chats(data / "test.jsonl"):
            texts = [
                tokenizer.apply_chat_template(row["prompt"] + row[key], tokenize=False)
                for key in ("chosen", "rejected")
            ]
            ids = [tokenizer(text, add_special_tokens=False, return_tensors="pt") for text in texts]
            scores.append([model(**one).logits[0, 0].item() for one in ids])
    return scores


def scores_file(out: Path, run: str) -> Path:
    return out / f"{run}.json"


def report(options: argparse.Namespace, out: Path, data: Path) -> None:
    """Print accuracies with intervals, and the paired difference over the seeds that both tools have."""
    import numpy as np

    from jobs.evaluation.statistics import auc, clusters_of, mean_estimate, wins

    prompts = [json.loads(line)["prompt"] for line in (data / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = [json.dumps(prompt) for prompt in prompts]
    clusters = clusters_of(prompts)
    done: dict[tuple[str, int], Any] = {}
    print(f"{len(prompts)} held-out pairs of {len(set(prompts))} prompts; 95 % intervals by bootstrap over prompts\n")
    print("| seed | tool | pairs trained on | accuracy | interval | AUC | loss, last quarter |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in options.seeds:
        for tool in TOOLS:
            path = scores_file(out, f"{tool}-{seed}")
            if not path.exists():
                continue
            result = json.loads(path.read_text())
            scores, losses = np.array(result["scores"]), result["facts"]["losses"]
            done[tool, seed] = wins(scores[:, 0] - scores[:, 1])
            e = mean_estimate(done[tool, seed], clusters, seed=0)
            tail = np.mean(losses[-max(1, len(losses) // 4) :])
            print(
                f"| {seed} | {tool} | {result['facts']['pairs']} | {e.value:.3f} | {e.low:.3f} to {e.high:.3f}"
                f" | {auc(scores[:, 0], scores[:, 1]):.3f} | {tail:.4f} |"
            )
    both = [seed for seed in options.seeds if all((tool, seed) in done for tool in TOOLS)]
    if not both:
        print("\nNo seed has both tools yet.")
        return
    repeated = np.tile(clusters, len(both))
    print()
    for tool in TOOLS:
        e = mean_estimate(np.concatenate([done[tool, seed] for seed in both]), repeated, seed=0)
        print(f"{tool}, mean of {len(both)} seed(s): {e.value:.3f} ({e.low:.3f} to {e.high:.3f})")
    gaps = np.concatenate([done["ours", seed] - done["stock", seed] for seed in both])
    e = mean_estimate(gaps, repeated, seed=0)
    print(f"ours minus stock, paired: {e.value:+.3f} ({e.low:+.3f} to {e.high:+.3f})")


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
