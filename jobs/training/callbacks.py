"""What happens around each training step: metrics, progress, stopping, marking checkpoints."""

from __future__ import annotations

import datetime
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jobs.contract.log import LOG
from jobs.training.checkpoints import mark_complete
from jobs.training.interrupt import StopFlag
from jobs.training.world import World

if TYPE_CHECKING:
    from jobs.training.recorder import Recorder

_NAMES = {
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "logits/chosen": "logit_chosen",
    "logits/rejected": "logit_rejected",
    "min_reward": "reward_min",
    "mean_reward": "reward_mean",
    "max_reward": "reward_max",
}
"""TRL's names to ours; docs/metrics.md says what each one means."""

_LEFT_OUT = ("runtime", "_per_second", "total_flos", "train_loss", "epoch")


def clean_names(logs: dict[str, Any]) -> dict[str, Any]:
    """Return a log of TRL under our names, without figures that we measure ourselves."""
    kept: dict[str, Any] = {}
    for key, value in logs.items():
        prefix, name = ("eval_", key[5:]) if key.startswith("eval_") else ("", key)
        if not name.endswith(_LEFT_OUT) or name in _NAMES:
            kept[prefix + _NAMES.get(name, name)] = float(value) if isinstance(value, int | float) else value
    return kept


class MetricsCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Records training and evaluation logs under our names; stops a run whose evaluation is no number."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.trainer: Any = None
        self.step_started = self.tokens_before = 0.0
        self.begun = (0.0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = (time.perf_counter(), state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step_started = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        values = clean_names(logs or {})
        loss = values.get("loss", values.get("eval_loss"))
        if loss is None:
            return
        kind = "train" if "loss" in values else "eval"
        if kind == "train":
            values |= self._speed(args, values) | {"epoch": round(state.epoch or 0.0, 4)}
            values |= {"max_steps": state.max_steps, "remaining_s": self._remaining(state)}
        else:
            values.pop("eval_num_tokens", None)
            values["eval_time_s"] = round(float((logs or {}).get("eval_runtime", 0.0)), 3)
        self.recorder.record(kind, state.global_step, **values)
        if not math.isfinite(loss):
            self.trainer.stop_diverged(f"the {kind} loss is {loss}", state.global_step)

    def _remaining(self, state: TrainerState) -> float:
        """Return the seconds that the rest will take at the mean speed since this attempt began."""
        time_begun, step_begun = self.begun
        done = max(state.global_step - step_begun, 1)
        return float(round((time.perf_counter() - time_begun) / done * (state.max_steps - state.global_step), 1))

    def _speed(self, args: TrainingArguments, values: dict[str, Any]) -> dict[str, float]:
        """Return time and throughput of the step that was just logged."""
        seconds = max(time.perf_counter() - self.step_started, 1e-9)
        pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        speed = {"step_time_s": round(seconds, 4), "samples_per_s": round(pairs / seconds, 3)}
        if "num_tokens" in values and args.logging_steps == 1:
            speed["tokens_per_s"] = round((values["num_tokens"] - self.tokens_before) / seconds, 1)
            self.tokens_before = values["num_tokens"]
        return speed


class ResumeCallback(TrainerCallback):  # type: ignore[misc]
    """Hands the figures that a checkpoint was saved with back to the trainer."""

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        self.trainer: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.checkpoint is not None:
            self.trainer.restore_window(self.checkpoint)


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Saves and ends the training, on all processes at the same step, when one of them was asked to stop."""

    def __init__(self, flag: StopFlag, world: World) -> None:
        self.flag = flag
        self.world = world

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if any(self.world.collect(bool(self.flag))):
            self.flag.raised = self.flag.acted = True
            control.should_save = True
            control.should_training_stop = True


class EarlyStopCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training when the eval loss has not improved for a while.

    transformers' own counts in memory and starts anew after an interruption; the history is in every checkpoint.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line and line["step"]]
        if losses and len(losses) - 1 - losses.index(min(losses)) >= self.patience:
            control.should_training_stop = True


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as whole once transformers has written all of it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """A live bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Progress | None = None
        self.last_line = self.started = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step
        if not state.is_world_process_zero or not sys.stderr.isatty():
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=state.max_steps, completed=state.global_step, values="")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        values = clean_names(logs or {})
        shown = [k for k in ("loss", "accuracy", "margin", "eval_loss", "eval_auc", "eval_accuracy") if k in values]
        text = "  ".join(f"{key} {values[key]:.4f}" for key in shown)
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, values=text)
        elif text and state.is_world_process_zero and (time.monotonic() - self.last_line > 10 or "eval_loss" in values):
            self.last_line = time.monotonic()
            text += self._pace(args, state)
            LOG.info("%s step %d/%d  %s", self.title, state.global_step, state.max_steps, text)

    def _pace(self, args: TrainingArguments, state: TrainerState) -> str:
        """Return pairs per second and the time left, once a step of this attempt is done."""
        steps = state.global_step - self.first_step
        if not steps or state.global_step >= state.max_steps:
            return ""
        seconds = (time.monotonic() - self.started) / steps
        pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        left = datetime.timedelta(seconds=round(seconds * (state.max_steps - state.global_step)))
        return f"  {pairs / seconds:.1f} pairs/s  {left} left"

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
