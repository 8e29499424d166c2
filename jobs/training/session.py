"""One training from claim to publication: what the steps `rm` and `dpo` share.

with training_session(config, step="rm", models={...}, stop=stop) as session:   # lock, skip, log, metrics
    encoded = session.encode()                                                  # rows to token ids, accounted for
    trainer = ...                                                               # the step's own
    session.learn(trainer)                                                      # resume, stop, evaluate
    publish(session, trainer)                                                   # stage, card, manifest
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.config.fields import as_dict
from jobs.config.training import TrainingConfig
from jobs.contract.errors import AiosError, BadConfig, Interrupted
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG, log_to_file
from jobs.contract.metrics import MetricsWriter, read_metrics
from jobs.contract.publish import attempt_id
from jobs.training.adapters import check_attention, check_quantization, keep_full_precision, load_options
from jobs.training.checkpoints import step_of
from jobs.training.claim import claim, report_finished
from jobs.training.encode import EncodedSplit, PairEncoder
from jobs.training.faults import told_plainly
from jobs.training.hardware import describe_device, peak_memory_mb, resolve_precision, set_threads
from jobs.training.interrupt import StopFlag
from jobs.training.libraries import import_libraries
from jobs.training.materials import Materials, finished, gather, read_inputs
from jobs.training.memory import available_memory, check_fits, needed_memory, parameters_in
from jobs.training.progress import TrainingProgress
from jobs.training.recorder import Recorder
from jobs.training.token_cache import encoded_split
from jobs.training.tracking import WandbRun
from jobs.training.world import World, join_world, ready_for_deepspeed


class TrainingSession:
    """A claimed output folder, what goes into the training, and the way to publish its result."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        step: str,
        models: dict[str, str],
        materials: Materials,
        world: World,
        stop: StopFlag,
        lock: FolderLock | None,
        checkpoint: Path | None,
    ) -> None:
        self.config, self.step, self.world, self.stop, self.lock = config, step, world, stop, lock
        self.models, self.materials, self.inputs = models, materials, materials.inputs
        self.folder = Path(config.output_dir)
        self.started = time.perf_counter()
        self.threads = set_threads()
        self.precision = resolve_precision(config.precision)
        self.checkpoint = checkpoint
        self.resume_step = step_of(checkpoint) if checkpoint else None
        self.progress = TrainingProgress(step, silent=not world.first)
        self.recorder = Recorder()
        if world.first:
            self.recorder.file = MetricsWriter(self.folder / "metrics.jsonl", resume_step=self.resume_step)
            if config.wandb:
                settings = as_dict(config) | {"inputs": self.inputs, "precision": self.precision}
                self.recorder.wandb = WandbRun(config.wandb, folder=self.folder, step=step, settings=settings)
        self.summary: dict[str, Any] = {}
        self.encoded: dict[str, EncodedSplit] = {}
        self.encoder = make_encoder(config, materials)

    def encode(self) -> dict[str, EncodedSplit]:
        """Encode train and eval; tell and write down how many rows are used, and why the others are not.

        Raises:
            BadConfig: no pair is left to train or to evaluate on.
        """
        self.encoded = {
            name: encoded_split(self.encoder, split.rows, write=self.world.first)
            for name, split in self.materials.splits.items()
        }
        for name, split in self.encoded.items():
            self.once("data", split=name, **split.accounting())
            dropped = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items()) or "none dropped"
            used = len(split.pairs)
            if self.world.first:
                LOG.info("%s: %d rows, %d pairs, %d shortened, %s", name, split.read, used, split.truncated, dropped)
            if not used:
                raise BadConfig(f"no pair of {name}.jsonl is usable ({dropped})", next_step="raise --max-length")
        self._check_memory()
        self.stop.check()
        return self.encoded

    def _check_memory(self) -> None:
        """Refuse a model that this machine cannot hold before its first weight is read."""
        model = next(iter(self.models.values()))
        parameters = parameters_in(Path(model))
        if parameters is not None and not self.config.deepspeed:
            need = needed_memory(self.config, model, self.encoded, parameters, self.precision)
            check_fits(self.config, need, available_memory(), describe_device())

    def once(self, kind: str, **values: Any) -> None:
        """Record what belongs to the start of a run; a resumed one has it already."""
        if self.resume_step is None:
            self.recorder.record(kind, 0, **values)

    def pairs_per_step(self) -> int:
        """Return how many pairs all processes together learn from in one optimizer step."""
        batch: int = self.config.batch_size  # type: ignore[attr-defined]  # each step's own default
        return batch * self.config.gradient_accumulation * self.world.size

    def device(self) -> str:
        """Return the device of this process: its GPU, else the CPU."""
        import torch

        return f"cuda:{self.world.local_rank}" if torch.cuda.is_available() else "cpu"

    def load_options(self) -> dict[str, Any]:
        """Return what loading a model needs beyond its name."""
        return load_options(self.config, self.precision)

    def callbacks(self) -> list[Any]:
        """Return what happens around each step; `learn` ties them to the trainer."""
        from jobs.training import callbacks as made

        early = self.config.early_stopping
        return [
            made.ResumeCallback(self.checkpoint),  # first: the others count from what it restores
            made.MetricsCallback(self.recorder, self.progress),
            made.StopCallback(self.stop, self.world),
            made.CheckpointCallback(self.recorder),
            *([made.EarlyStopCallback(early)] if early else []),
        ]

    def learn(self, trainer: Any) -> None:
        """Train from the start or the chosen checkpoint, evaluate at the end, write the summary.

        Raises:
            Interrupted: a stop was asked for; the checkpoint is saved.
            Diverged: the loss is no number any more.
            OutOfMemory: the device's memory is exhausted.
        """
        from transformers import PrinterCallback

        self.stop.check()
        trainer.remove_callback(PrinterCallback)  # prints every log as a dict to stdout
        for callback in trainer.callback_handler.callbacks:
            if getattr(callback, "trainer", self) is None:
                callback.trainer = trainer
        keep_full_precision(trainer.model, self.config)
        if self.checkpoint is None:
            trainer.put_off_evaluation(self.stop.check)
        self._announce(trainer)
        with told_plainly(self.config):
            trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        state = trainer.state
        if self.stop.acted and state.global_step < state.max_steps:
            raise Interrupted(
                f"stopped at step {state.global_step} of {state.max_steps}, checkpoint saved",
                next_step="the same command continues from there",
            )
        lines = read_metrics(self.folder / "metrics.jsonl") if self.world.first else []
        evals = [line["step"] for line in lines if line.get("kind") == "eval"]
        # With early stopping the model is now the best one, not the last one evaluated.
        if self.world.share(not evals or evals[-1] < state.global_step) or self.config.early_stopping:
            with told_plainly(self.config):
                trainer.evaluate()
        if self.world.first:
            self.summary = self._summary(trainer)
            self.recorder.record("summary", state.global_step, **self.summary)

    def _announce(self, trainer: Any) -> None:
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        in_all = sum(p.numel() for p in trainer.model.parameters())
        self.once(
            "start",
            parameters=in_all,
            parameters_trained=trained,
            processes=self.world.size,
            precision=self.precision,
            device=describe_device(),
            chat_template=self.encoder.templated,
        )
        if not self.world.first:
            return
        LOG.info(
            "Training %s of %s weights on %s in %s%s",
            f"{trained:,}",
            f"{in_all:,}",
            describe_device(),
            self.precision,
            f", {self.world.size} processes" if self.world.size > 1 else "",
        )
        if self.checkpoint is not None:
            LOG.info("Continuing from step %d (%s)", self.resume_step, self.checkpoint)

    def _summary(self, trainer: Any) -> dict[str, Any]:
        """Condense metrics.jsonl: first and last evaluation, and whether the loss fell (design: quarters)."""
        lines = read_metrics(self.folder / "metrics.jsonl")
        losses = [line["loss"] for line in lines if line.get("kind") == "train"]
        evals = [line for line in lines if line.get("kind") == "eval"]
        quarter = max(1, len(losses) // 4)
        summary: dict[str, Any] = {
            "steps": trainer.state.global_step,
            "loss_first_quarter": sum(losses[:quarter]) / quarter,
            "loss_last_quarter": sum(losses[-quarter:]) / quarter,
            "eval_loss_first": evals[0]["eval_loss"],
            "eval_loss_last": evals[-1]["eval_loss"],
            "precision": self.precision,
            "train_time_s": round(time.perf_counter() - self.started, 2),
            "peak_memory_mb": peak_memory_mb(),
        }
        if self.config.early_stopping:
            summary["best_step"] = trainer.state.best_global_step
        for key in ("eval_auc", "eval_accuracy", "eval_margin"):
            if key in evals[-1]:
                summary[key] = evals[-1][key]
        return summary


def make_encoder(config: TrainingConfig, materials: Materials) -> PairEncoder:
    """Return the encoder that these settings mean."""
    return PairEncoder(
        materials.tokenizer,
        chat_template=config.chat_template,
        max_length=config.max_length,
        truncation=config.truncation,
    )


@contextlib.contextmanager
def training_session(
    config: TrainingConfig, *, step: str, models: dict[str, str], stop: StopFlag
) -> Iterator[TrainingSession | None]:
    """Gather what goes in and claim the output folder; yields None when it already holds exactly this result.

    `models` maps names in the manifest to models; the tokenizer of the first one is used.
    """
    splits, inputs = read_inputs(config, models)
    if os.environ.get("WORLD_SIZE", "1") == "1" and not config.overwrite:
        manifest = finished(config, inputs)
        if manifest is not None:
            report_finished(config, manifest)
            yield None
            return
    import_libraries()
    if config.deepspeed:
        ready_for_deepspeed()
    world = join_world(config.processes)
    check_quantization(config)
    check_attention(config)
    materials = gather(config, models, splits, inputs)
    stop.check()
    with contextlib.ExitStack() as stack:
        claimed: tuple[bool, Path | None] = (False, None)
        error: AiosError | None = None
        lock: FolderLock | None = None
        if world.first:
            try:
                lock = stack.enter_context(FolderLock(Path(config.output_dir), attempt=attempt_id()))
                claimed = claim(config, inputs, lock)
            except AiosError as exc:
                error = exc
        done, checkpoint = world.agree(claimed, error)
        if done:
            yield None
            return
        if world.first:
            stack.enter_context(log_to_file(Path(config.output_dir) / "training.log"))
        session = TrainingSession(
            config,
            step=step,
            models=models,
            materials=materials,
            world=world,
            stop=stop,
            lock=lock,
            checkpoint=checkpoint,
        )
        LOG.debug("settings: %s", as_dict(config))
        failed = True
        try:
            with told_plainly(config):
                yield session
            failed = False
        except Interrupted:
            failed = False
            raise
        finally:
            session.progress.close()
            session.recorder.close(failed=failed)
