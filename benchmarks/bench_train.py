"""Training side by side: ours, stock TRL 1.16 and tuned TRL, alternating, on the same pairs, model, seed and steps.

    python benchmarks/bench_train.py [--cases main 64 256 1024 lora] [--kinds rm dpo] [--results FILE --for-s 240]

The pairs are those of --export that fit into the length limit whole, so that all three learn from the same tokens;
for the case 1024 the answers of several are joined, for 64 they are cut to their first words. Every measurement is a
process of its own; figures are medians over repetitions. Stock is TRL's defaults (gradient checkpointing on, the
reference model asked at every step); tuned has checkpointing off and the reference precomputed. Ours also evaluates
the initial model.

With --results every run is kept in a file and only missing ones are made, none begun after --for-s seconds; --report
prints the tables of what is there.
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
KINDS = ("rm", "dpo")
Results = dict[str, list[dict[str, Any]]]
PANDALM = Path("../shared/data/human/pandalm.argilla.jsonl")
EVAL_PAIRS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is trained: pairs a step, longest sequence, adapters; how many steps, the first untimed, and how often."""

    batch_size: dict[str, int]
    max_length: int
    lora_rank: int = 0
    steps: int = 3
    repetitions: int = 3
    joined: int = 0
    """Characters that answers have at least after several were joined; 0 joins none."""
    cut: int = 0
    """Characters that answers keep; 0 keeps all."""


CASES = {
    "main": Case(batch_size={"rm": 8, "dpo": 4}, max_length=512, repetitions=5),
    "64": Case(batch_size={"rm": 8, "dpo": 8}, max_length=64, steps=4, cut=60),
    "256": Case(batch_size={"rm": 8, "dpo": 4}, max_length=256),
    "1024": Case(batch_size={"rm": 2, "dpo": 2}, max_length=1024, steps=6, joined=3500),
    "lora": Case(batch_size={"rm": 8, "dpo": 4}, max_length=512, lora_rank=16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="artifacts/base/smollm2-135m-instruct")
    parser.add_argument(
        "--export", default=PANDALM if PANDALM.exists() else "training_data/sample/argilla_export.jsonl"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, help="instead of the case's own; the first is not timed")
    parser.add_argument("--repetitions", type=int, help="instead of the case's own")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--results", type=Path, help="file of what was measured, continued")
    parser.add_argument("--for-s", type=float, default=1e9, metavar="S", help="begin no run after so many seconds")
    parser.add_argument("--report", action="store_true", help="measure nothing, print --results")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, kind, case, data, folder, started = options.worker
        print(json.dumps(measure(variant, kind, CASES[case], Path(data), Path(folder), float(started), options)))
        return
    done = read_results(options.results)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        for case, kind, variant in [] if options.report else missing(done, options):
            if time.monotonic() - began > options.for_s:
                break
            data = Path(name) / case / kind
            if not data.exists():
                rows = rows or ingested(options.export, Path(name))
                published(rows, kind, case, options, data)
            done[case + " " + kind][variant].append(once(variant, kind, case, data, Path(name)))
            if options.results:
                options.results.write_text(json.dumps(done), encoding="utf-8")
    for title, runs in done.items():
        if all(runs.values()):
            case, kind = title.split()
            report(case, kind, runs)


def read_results(path: Path | None) -> dict[str, Results]:
    """Return what was measured before: case and kind -> tool -> its runs; nothing where there is no file."""
    if path is None or not path.exists():
        return {}
    found: dict[str, Results] = json.loads(path.read_text(encoding="utf-8"))
    return found


def missing(done: dict[str, Results], options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return (case, kind, tool) of the runs that are still to be made, alternating."""
    turns = []
    for number in range(max(options.repetitions or CASES[case].repetitions for case in options.cases)):
        # Another one begins each time: whoever comes first in a quiet minute must not always be the same.
        order = VARIANTS[number % 3 :] + VARIANTS[: number % 3]
        for case, kind in ((case, kind) for case in options.cases for kind in options.kinds):
            made = done.setdefault(f"{case} {kind}", {variant: [] for variant in VARIANTS})
            if number < (options.repetitions or CASES[case].repetitions):
                turns += [(case, kind, variant) for variant in order if len(made[variant]) <= number]
    return turns


def once(variant: str, kind: str, case: str, data: Path, folder: Path) -> dict[str, Any]:
    """Measure a tool once; of ours also how soon it begins when it has seen the data before."""
    workspace = Path(tempfile.mkdtemp(dir=folder))
    result = start(variant, kind, case, data, workspace)
    if variant == "ours":
        result["warm_start_s"] = start("warm", kind, case, data, workspace)["start_s"]
    shutil.rmtree(workspace)
    return result


def ingested(export: str | Path, folder: Path) -> list[dict[str, Any]]:
    """Return the valid pairs of an export, shuffled."""
    command = [sys.executable, "-m", "jobs.cli", "data", "argilla-export", "--input", str(export)]
    command += ["--output", str(folder / "all"), "--train-ratio", "1", "--eval-ratio", "0", "--test-ratio", "0"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    rows = [json.loads(line) for line in (folder / "all/train.jsonl").read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    return rows


def published(rows: list[dict[str, Any]], kind: str, case: str, options: argparse.Namespace, folder: Path) -> None:
    """Publish the pairs that the steps need and a few to evaluate on: tuned TRL asks its reference about all."""
    from jobs.models.load import load_tokenizer
    from jobs.training.encode import PairEncoder
    from tests.tiny import publish_rows

    setting = CASES[case]
    if setting.joined:
        rows = long_rows(rows, characters=setting.joined)
    if setting.cut:
        rows = [row | {side: row[side][: setting.cut] for side in ("chosen", "rejected")} for row in rows]
        rows = [row for row in rows if row["chosen"] != row["rejected"]]
    encoder = PairEncoder(
        load_tokenizer(options.model), chat_template="auto", max_length=setting.max_length, truncation="right"
    )
    rows = [row for row in rows if not encoder.encode(row).truncated]
    wanted = (options.steps or setting.steps) * setting.batch_size[kind]
    if len(rows) < wanted + 4:
        raise SystemExit(f"{case}: {wanted + 4} pairs are needed, {len(rows)} fit into {setting.max_length} tokens")
    held_out = min(EVAL_PAIRS, len(rows) - wanted)
    train = rows[held_out : held_out + wanted]
    folder.parent.mkdir(parents=True, exist_ok=True)
    publish_rows(folder, {"train": train, "eval": rows[:held_out], "test": rows[:1]})


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


def start(variant: str, kind: str, case: str, data: Path, folder: Path) -> dict[str, Any]:
    """Measure one variant in a process of its own."""
    started = time.time()
    worker = ["--worker", variant, kind, case, str(data), str(folder), str(started)]
    # Ours lets threads wait without spinning; what else runs on the machine shall not decide between the others and it.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, *sys.argv[1:], *worker]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result | {"process_s": time.time() - started}


def measure(
    variant: str, kind: str, case: Case, data: Path, folder: Path, started: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Train and return what was measured; runs in the worker."""
    import resource

    options.steps = options.steps or case.steps
    if variant == "warm":
        ours(kind, case, data, options, folder, started)
    result = (
        ours(kind, case, data, options, folder)
        if variant == "ours"
        else trl(kind, case, data, options, folder, variant == "tuned")
    )
    result["start_s"] = result["began"][0] - started
    # From the first step's beginning to the last one's end, with whatever comes between steps.
    result["training_s"] = result["began"][-1] - result["began"][0] + result["steps_s"][-1]
    del result["began"]
    return result | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(
    kind: str, case: Case, dataset: Path, options: argparse.Namespace, folder: Path, warm: float | None = None
) -> dict[str, Any]:
    """Train with our command; with `warm`, the time of the start, end the process as its first step begins."""
    from jobs.cli import run
    from jobs.contract.metrics import read_metrics

    model = Path(options.model).resolve()
    os.chdir(folder)  # the caches lie in the workspace: here they start empty
    output = "out" if warm is None else "warm"
    flag = "--base-model" if kind == "rm" else "--policy-model"
    line = [
        "hrm-hf", f"{kind}-train", flag, model, "--dataset-dir", dataset, "--output-dir", output, "--max-steps",
        options.steps, "--batch-size", case.batch_size[kind], "--max-length", case.max_length, "--lr", 1e-5,
        "--precision", options.precision, "--eval-steps", 10**6, "--save-steps", 10**6,
        "--lora-rank", case.lora_rank,
    ]  # fmt: skip
    times = watch_ours(warm)
    code = run([str(part) for part in line])
    if code:
        raise SystemExit(code)
    lines = read_metrics(folder / output / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    return times | {
        "losses": [line["loss"] for line in train],
        "tokens": [line["num_tokens"] for line in train],
        "eval_loss": lines[-1]["eval_loss_last"],
    }


def watch_ours(warm: float | None) -> dict[str, list[float]]:
    """Put a clock into our next training; with `warm`, its first step prints when it began and ends the process."""
    from jobs.training import session

    learn = session.TrainingSession.learn
    times: dict[str, list[float]] = {}

    def learn_watched(self: Any, trainer: Any) -> None:
        callback, mine = clock(warm)
        times.update(mine)
        trainer.add_callback(callback)
        learn(self, trainer)

    session.TrainingSession.learn = learn_watched  # type: ignore[method-assign]
    return times


def clock(warm: float | None = None) -> tuple[Any, dict[str, list[float]]]:
    """Return a callback and the lists it fills: when each step began, its seconds, its processor seconds."""
    from transformers import TrainerCallback

    times: dict[str, list[float]] = {"began": [], "steps_s": [], "cpu_s": []}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times["began"].append(time.time())
            if warm is not None:
                print(json.dumps({"start_s": time.time() - warm}), flush=True)
                os._exit(0)
            self.cpu = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times["steps_s"].append(time.time() - times["began"][-1])
            times["cpu_s"].append(time.process_time() - self.cpu)

    return Clock(), times


def trl(kind: str, case: Case, dataset: Path, options: argparse.Namespace, folder: Path, tuned: bool) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from jobs.models.load import load_tokenizer

    os.environ["TQDM_DISABLE"] = "1"
    data = {name: chats(dataset / f"{name}.jsonl") for name in ("train", "eval")}
    tokenizer = load_tokenizer(options.model)
    watch, times = clock()
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
        "callbacks": [watch],
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
    return times | {
        "losses": [line["loss"] for line in history],
        "tokens": [line["num_tokens"] for line in history],
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


def report(case: str, kind: str, runs: Results) -> None:
    """Print rows of a Markdown table: medians over the repetitions, and how many times ours is faster."""
    pairs = CASES[case].batch_size[kind]
    for run in (run for mine in runs.values() for run in mine):
        # The first step warms caches and allocators up; the others differ, since their pairs do.
        run["step_s"] = statistics.mean(run["steps_s"][1:])
        run["step_cpu_s"] = statistics.mean(run["cpu_s"][1:])
        run["tokens_per_s"] = (run["tokens"][-1] - run["tokens"][0]) / sum(run["steps_s"][1:])

    def median(key: str, variant: str) -> float:
        return float(statistics.median(run[key] for run in runs[variant]))

    def ratio(key: str, variant: str) -> float:
        both = zip(runs[variant], runs["ours"], strict=False)  # run next to each other
        return float(statistics.median(theirs[key] / ours[key] for theirs, ours in both))

    repetitions, steps = min(map(len, runs.values())), len(runs["ours"][0]["losses"])
    print(f"\n{kind}, {case}: {pairs} pairs a step, {repetitions} repetitions of {steps} steps")
    print(
        "| tool | pairs/s | ours is faster | CPU s a step | ours needs less | tokens/s "
        "| start to first step, s (warm) | training, s | process, s | peak MB | eval loss | loss apart by |"
    )
    print("| --- " * 12 + "|")
    stock = runs["stock"][0]
    for variant in VARIANTS:
        run = runs[variant][0]
        warm = f" ({median('warm_start_s', variant):.1f})" if variant == "ours" else ""
        apart = max(abs(a - b) for a, b in zip(run["losses"], stock["losses"], strict=True))
        cells = [
            variant,
            f"{pairs / median('step_s', variant):.2f}",
            "" if variant == "ours" else f"{ratio('step_s', variant):.2f}",
            f"{median('step_cpu_s', variant):.1f}",
            "" if variant == "ours" else f"{ratio('step_cpu_s', variant):.2f}",
            f"{median('tokens_per_s', variant):.0f}",
            f"{median('start_s', variant):.1f}{warm}",
            f"{median('training_s', variant):.1f}",
            f"{median('process_s', variant):.1f}",
            f"{median('peak_mb', variant):,.0f}",
            f"{run['eval_loss']:.4f}",
            f"{apart:.4f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
