"""What happens around each training step: metrics, stopping, marking checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jobs.training.checkpoints import mark_complete
from jobs.training.interrupt import StopFlag
from jobs.training.progress import TrainingProgress
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
    "runtime": "time_s",
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
    """Records and shows training and evaluation logs under our names; stops a run whose loss is no number."""

    def __init__(self, recorder: Recorder, progress: TrainingProgress) -> None:
        self.recorder, self.progress = recorder, progress
        self.trainer: Any = None
        self.begun = (0.0, 0)
        self.step_started = self.busy_s = 0.0
        self.steps = self.tokens_before = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = (time.perf_counter(), state.global_step)
        self.tokens_before = self.trainer.tokens_seen()
        self.progress.begin(state.max_steps, state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.busy_s += time.perf_counter() - self.step_started
        self.steps += 1

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
            values |= self._speed(args) | {"epoch": round(state.epoch or 0.0, 4)}
            values |= {"max_steps": state.max_steps, "remaining_s": self._remaining(state)}
        else:
            values.pop("eval_num_tokens", None)
        self.recorder.record(kind, state.global_step, **values)
        self.progress.show(state.global_step, values)
        if not math.isfinite(loss):
            self.trainer.stop_diverged(f"the {kind} loss is {loss}", state.global_step)

    def _remaining(self, state: TrainerState) -> float:
        """Return the seconds that the rest will take at the mean speed since this attempt began."""
        time_begun, step_begun = self.begun
        done = max(state.global_step - step_begun, 1)
        return float(round((time.perf_counter() - time_begun) / done * (state.max_steps - state.global_step), 1))

    def _speed(self, args: TrainingArguments) -> dict[str, float]:
        """Return time and throughput of the steps since the last line, of this attempt."""
        seconds, steps, tokens = max(self.busy_s, 1e-9), max(self.steps, 1), self.trainer.tokens_seen()
        pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        speed = {
            "step_time_s": round(seconds / steps, 4),
            "samples_per_s": round(pairs * steps / seconds, 3),
            "tokens_per_s": round((tokens - self.tokens_before) / seconds, 1),
        }
        self.busy_s, self.steps, self.tokens_before = 0.0, 0, tokens
        return speed


class ResumeCallback(TrainerCallback):  # type: ignore[misc]
    """Hands the figures that a checkpoint was saved with back to the trainer; ends a run that was over with it."""

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        self.trainer: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.checkpoint is not None:
            self.trainer.restore_window(self.checkpoint)
            control.should_training_stop = state.global_step >= state.max_steps


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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._decide(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._decide(state, control)

    def _decide(self, state: TrainerState, control: TrainerControl) -> None:
        losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line and line["step"]]
        if losses and len(losses) - 1 - losses.index(min(losses)) >= self.patience:
            control.should_training_stop = True


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as whole once transformers has written all of it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.recorder.sync()
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
