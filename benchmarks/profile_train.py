"""Where the time and the memory of one training step go, for ours, stock and tuned TRL.

    python benchmarks/profile_train.py --case main --kind rm ours stock

The second step of each is profiled, in a process of its own, on the pairs of `bench_train.py`. Times are of the thread
that runs the step, by kind of operation; profiling itself makes small operations slower.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from benchmarks.bench_train import CASES, KINDS, PANDALM, VARIANTS, ingested, measure, published

GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "_mkldnn", "onednn", "linear"),
    "attention (sdpa)": ("_scaled_dot_product",),
    "softmax": ("_softmax", "_log_softmax", "log_softmax", "logsumexp", "exp"),
    "copies, casts": ("copy_", "_to_copy", "clone", "cat", "contiguous", "_foreach_copy_", "index", "gather", "fill_"),
    "optimizer": ("_fused_adamw_", "_foreach_", "_fused"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--case", choices=CASES, default="main")
    parser.add_argument("--kind", choices=KINDS, default="rm")
    parser.add_argument("--model", default="artifacts/base/smollm2-135m-instruct")
    parser.add_argument("--export", default=PANDALM)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.steps = 3
    if options.worker:
        variant, data = options.worker
        profile_second_step()
        with tempfile.TemporaryDirectory() as folder:
            measure(variant, options.kind, CASES[options.case], Path(data), Path(folder), 0.0, options)
        return
    with tempfile.TemporaryDirectory(prefix="profile-train-") as name:
        data = Path(name) / "data"
        published(ingested(options.export, Path(name)), options.kind, options.case, options, data)
        found = {}
        for variant in options.variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", variant, str(data)]
            output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            found[variant] = json.loads(output.splitlines()[-1])
    print(f"| {options.kind}, {options.case} | {' | '.join(found)} |")
    print("| --- " * (len(found) + 1) + "|")
    for row in next(iter(found.values())):
        print(f"| {row} | {' | '.join(str(figures[row]) for figures in found.values())} |")


def profile_second_step() -> None:
    """Let a trainer of transformers profile its second step, print what was found as JSON, and end the process."""
    import os

    import psutil
    import torch
    from transformers.trainer_callback import CallbackHandler

    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    begin, end = CallbackHandler.on_step_begin, CallbackHandler.on_step_end
    held: list[int] = []

    def on_step_begin(self: Any, args: Any, state: Any, control: Any) -> Any:
        if state.global_step == 1:
            held.append(psutil.Process().memory_info().rss)
            profiler.start()
        return begin(self, args, state, control)

    def on_step_end(self: Any, args: Any, state: Any, control: Any) -> Any:
        if state.global_step == 2:
            profiler.stop()
            print(json.dumps(summed(profiler.key_averages(), held[0])), flush=True)
            os._exit(0)
        return end(self, args, state, control)

    CallbackHandler.on_step_begin, CallbackHandler.on_step_end = on_step_begin, on_step_end


def summed(events: Any, held: int) -> dict[str, str]:
    """Return seconds of each group of operations, and the memory before the step and at its peak."""
    import resource

    seconds = dict.fromkeys([*GROUPS, "everything else"], 0.0)
    for event in events:
        name = event.key.removeprefix("aten::")
        group = next((g for g, names in GROUPS.items() if name.startswith(names)), "everything else")
        seconds[group] += event.self_cpu_time_total / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = {f"{group}, s": f"{value:.2f}" for group, value in seconds.items()}
    return table | {"in all, s": f"{sum(seconds.values()):.2f}"} | {
        "held before the step, MB": f"{held / 2**20:,.0f}", "peak, MB": f"{peak:,.0f}",
    }  # fmt: skip


if __name__ == "__main__":
    main()
