"""What both of TRL's trainers get from us: a loss that stays finite, checkpoints that resume to the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import torch

from jobs.contract.errors import Diverged
from jobs.contract.files import write_json
from jobs.contract.log import LOG
from jobs.training.checkpoints import MARKER, newest_complete
from jobs.training.fast import HalfCopy, unsupported, use_fast_head, use_fast_score
from jobs.training.packing import use_shared_start


class GuardedTrainer:
    """Mixed in before a TRL trainer."""

    fast = False
    half: HalfCopy | None = None
    _put_off: Callable[[], None] | None = None

    def make_fast(self, *, half: bool, packed: bool) -> None:
        """Take the shorter path to the same losses on a CPU.

        With `half` the passes run on a bf16 copy of the weights; with `packed` what a pair shares is computed once.

        Where TRL has Triton it skips unscored positions itself; under DeepSpeed the weights may be elsewhere.
        """
        state: Any = self
        if state.accelerator.device.type != "cpu" or state.is_deepspeed_enabled:
            return
        model = state.model.get_base_model() if hasattr(state.model, "get_base_model") else state.model
        reason = unsupported(model)
        if reason:
            LOG.warning("%s is trained by TRL's own path: %s", type(model).__name__, reason)
            return
        if hasattr(model, "score"):
            use_fast_score(model)
        else:
            use_fast_head(model)
        self.fast = True
        if packed and (reason := use_shared_start(model)):
            LOG.info("%s computes prompts twice: %s", type(model).__name__, reason)
        if half:
            self.half = HalfCopy(state.model)
            if state.args.activation_checkpointing:
                self.half.model.activation_checkpointing_enable()

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss, on the bf16 copy where there is one."""
        model = model if self.half is None else self.half.refresh(self.state.global_step)  # type: ignore[attr-defined]
        return super().compute_loss(model, *args, **kwargs)  # type: ignore[misc]

    def put_off_evaluation(self, before: Callable[[], None]) -> None:
        """Evaluate the initial model after the first step instead of before it, where a copy does the passes.

        That takes up a step's weights with the next pass only, so until then it is the initial model: the figures are
        the same, the first loss is there sooner, and a batch too large for the memory fails at once. `before` is called
        just before that evaluation.
        """
        if self.half is not None:
            self.args.eval_on_start = False  # type: ignore[attr-defined]
            self._put_off = before

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save what is due; after the first step, what was put off comes between."""
        before, self._put_off = self._put_off, None
        if before is not None:
            state: Any = self
            due = (state.control.should_evaluate, state.control.should_save)
            state.control.should_evaluate = state.control.should_save = False
            super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]  # the first loss is shown at once
            self._evaluate_initial(before)
            state.control.should_evaluate, state.control.should_save = due
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]

    def _evaluate_initial(self, before: Callable[[], None]) -> None:
        """Evaluate with the weights of before the first step, and record that as step 0."""
        assert self.half is not None
        state: Any = self.state  # type: ignore[attr-defined]
        now = (state.global_step, state.epoch)
        with self.half.held():
            before()
            state.global_step, state.epoch = 0, 0
            self._evaluate(None, None, skip_scheduler=True)  # type: ignore[attr-defined]
        state.global_step, state.epoch = now

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run a pass over the data; none when the checkpoint was the run's last, since transformers would take a step
        more before it looks whether it should.
        """
        if not self.control.should_training_stop:  # type: ignore[attr-defined]
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Do one forward and backward pass; stop before a loss that is no number reaches the weights."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not torch.isfinite(loss):
            self.stop_diverged(f"the training loss is {loss.item()}", self.state.global_step + 1)  # type: ignore[attr-defined]
        return loss

    def stop_diverged(self, found: str, step: int) -> None:
        """Raise Diverged, naming the step and the newest checkpoint from before it."""
        folder = Path(self.args.output_dir)  # type: ignore[attr-defined]
        checkpoint = newest_complete(folder)
        raise Diverged(
            f"{found} at step {step}",
            needed="finite numbers",
            next_step="lower --lr, or use --precision fp32; "
            + (f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"),
        )

    def tokens_seen(self) -> int:
        """Return the tokens learnt from since the start of the run, over all processes and attempts."""
        return int(self._total_train_tokens)  # type: ignore[attr-defined]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none into the checkpoints; the published card is ours."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint and beside it what transformers forgets: the figures gathered since the last log line."""
        state: Any = self
        checkpoint = Path(state.args.output_dir) / f"checkpoint-{state.state.global_step}"
        if not all(bool(torch.isfinite(p).all()) for p in state.model.parameters() if p.requires_grad):
            self.stop_diverged("a weight is no finite number", state.state.global_step)
        # One of this name may lie there from an attempt that went on from an earlier step.
        (checkpoint / MARKER).unlink(missing_ok=True)
        super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]
        window = {
            "loss": state._tr_loss.item(),
            "since": state._globalstep_last_logged,
            "tokens": state._total_train_tokens,
            "figures": {key: list(values) for key, values in state._metrics["train"].items()},
        }
        write_json(self._window_path(checkpoint), window)
        state.accelerator.wait_for_everyone()

    def restore_window(self, checkpoint: Path) -> None:
        """Take up the figures that a checkpoint was saved with; called when the training loop is set up."""
        state: Any = self
        path = self._window_path(checkpoint)
        if not path.exists():
            LOG.warning("%s is not there: this attempt has more processes than the one before", path)
            return
        window = orjson.loads(path.read_bytes())
        state._tr_loss += window["loss"]
        state._globalstep_last_logged = window["since"]
        state._total_train_tokens = window["tokens"]
        for key, values in window["figures"].items():
            state._metrics["train"][key] = values

    def _window_path(self, checkpoint: Path) -> Path:
        return checkpoint / f"window-{self.args.process_index}.json"  # type: ignore[attr-defined]
