"""One training from claim to publication: what the steps `rm` and `dpo` share.

with training_session(config, step="rm", inputs={...}) as session:   # lock, skip, log, metrics
    trainer = ...                                                    # the step's own
    session.learn(trainer)                                           # resume, stop, evaluate
    session.publish(trainer, tokenizer)                              # stage, card, manifest
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jobs.config.fields import as_dict, identity
from jobs.config.training import TrainingConfig
from jobs.contract.child import report_result
from jobs.contract.errors import BadConfig, Interrupted, OutOfMemory
from jobs.contract.files import to_json, write_json
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG, log_to_file
from jobs.contract.manifest import Manifest
from jobs.contract.metrics import MetricsWriter, read_metrics
from jobs.contract.publish import already_published, attempt_id, publish_into, recover, retire, staging
from jobs.training.checkpoints import choose, step_of
from jobs.training.encode import EncodedSplit
from jobs.training.hardware import describe_device, resolve_precision, set_threads
from jobs.training.interrupt import StopFlag, stop_on_signals

UNFINISHED = "unfinished.json"
"""What a folder without a manifest is being trained with: another configuration must not resume from it."""


def quiet_libraries() -> None:
    """Keep libraries from calling home and from printing over our own output; before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


class TrainingSession:
    """A claimed output folder, its logs and the way to publish into it."""

    def __init__(
        self, config: TrainingConfig, *, step: str, inputs: dict[str, str], lock: FolderLock, stop: StopFlag
    ) -> None:
        self.config, self.step, self.inputs, self.lock, self.stop = config, step, inputs, lock, stop
        self.folder = lock.folder
        self.started = time.perf_counter()
        self.threads = set_threads()
        self.precision = resolve_precision(config.precision)
        self.checkpoint = choose(config.resume, self.folder / "checkpoints")
        self.resume_step = step_of(self.checkpoint) if self.checkpoint else None
        self.metrics = MetricsWriter(self.folder / "metrics.jsonl", resume_step=self.resume_step)
        self.summary: dict[str, Any] = {}

    def account(self, splits: dict[str, EncodedSplit]) -> None:
        """Tell and write down how many rows are used, and why the others are not.

        Raises:
            BadConfig: no pair is left to train or to evaluate on.
        """
        for name, split in splits.items():
            if self.resume_step is None:
                self.metrics.write("data", 0, split=name, **split.accounting())
            dropped = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items()) or "none dropped"
            used = len(split.pairs)
            LOG.info("%s: %d rows, %d pairs, %d shortened, %s", name, split.read, used, split.truncated, dropped)
            if not split.pairs:
                raise BadConfig(f"no pair of {name}.jsonl is usable ({dropped})", next_step="raise --max-length")

    def device(self) -> str:
        """Return the device of this process: its GPU, else the CPU."""
        import torch

        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"

    def count_reference(self, split: str, computed: int) -> None:
        """Write down for how many pairs reference log-probabilities were computed; 0 when the cache had them."""
        if self.resume_step is None:
            self.metrics.write("reference", 0, split=split, reference_pairs_computed=computed)

    def arguments(self) -> dict[str, Any]:
        """Return the settings that both of TRL's trainers take."""
        import torch

        c = self.config
        cuda = torch.cuda.is_available()
        return {
            "output_dir": str(self.folder / "checkpoints"),
            "num_train_epochs": c.epochs,
            "max_steps": c.max_steps or -1,
            "learning_rate": c.lr,  # type: ignore[attr-defined]  # each step's own default
            "per_device_train_batch_size": c.batch_size,  # type: ignore[attr-defined]
            "per_device_eval_batch_size": c.batch_size,  # type: ignore[attr-defined]
            "gradient_accumulation_steps": c.gradient_accumulation,
            "gradient_checkpointing": c.gradient_checkpointing,
            "bf16": self.precision == "bf16",
            "fp16": self.precision == "fp16",
            "use_cpu": not cuda,
            "dataloader_pin_memory": cuda,
            "lr_scheduler_type": c.lr_scheduler,
            # transformers 5 has no warmup_ratio: a warmup_steps below 1 is the ratio.
            "warmup_steps": c.warmup_ratio,
            "weight_decay": c.weight_decay,
            "max_grad_norm": c.max_grad_norm,
            "max_length": None,  # rows are encoded and cut by jobs.training.encode
            "eval_strategy": "steps",
            "eval_steps": c.eval_steps,
            "eval_on_start": self.resume_step is None,
            "save_strategy": "steps",
            "save_steps": c.save_steps,
            "save_total_limit": c.save_limit,
            "logging_steps": c.logging_steps,
            "logging_nan_inf_filter": False,  # it would hide a NaN behind the last good loss
            "seed": c.seed,
            "data_seed": c.seed,
            "deepspeed": c.deepspeed,
            "report_to": ["wandb"] if c.wandb else [],
            "run_name": self.folder.name,
            "disable_tqdm": True,
            "remove_unused_columns": True,
        }

    def learn(self, trainer: Any) -> None:
        """Train from the start or the chosen checkpoint, evaluate at the end, write the summary.

        Raises:
            Interrupted: a stop was asked for; the checkpoint is saved.
            Diverged: the loss is no number any more.
            OutOfMemory: the device's memory is exhausted.
        """
        import torch
        from transformers import PrinterCallback

        LOG.info("Training on %s in %s", describe_device(), self.precision)
        trainer.remove_callback(PrinterCallback)  # prints every log as a dict to stdout
        if self.checkpoint is not None:
            LOG.info("Continuing from step %d (%s)", self.resume_step, self.checkpoint)
            earlier = [line for line in read_metrics(self.metrics.path) if line.get("kind") == "train"]
            trainer._total_train_tokens = int(earlier[-1].get("num_tokens", 0)) if earlier else 0
        try:
            trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        except torch.OutOfMemoryError as exc:
            raise OutOfMemory(
                f"the device is out of memory ({exc})",
                next_step="halve --batch-size and double --gradient-accumulation, or use --bf16",
            ) from exc
        if self.stop and trainer.state.global_step < trainer.state.max_steps:
            raise Interrupted(
                f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, checkpoint saved",
                next_step="the same command continues from there",
            )
        evals = [line["step"] for line in read_metrics(self.metrics.path) if line.get("kind") == "eval"]
        if not evals or evals[-1] < trainer.state.global_step:
            trainer.evaluate()
        self.summary = self._summary(trainer)
        self.metrics.write("summary", trainer.state.global_step, **self.summary)

    def _summary(self, trainer: Any) -> dict[str, Any]:
        """Condense metrics.jsonl: first and last evaluation, and whether the loss fell (design: quarters)."""
        lines = read_metrics(self.metrics.path)
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
        }
        for key in ("eval_auc", "eval_accuracy", "eval_margin"):
            if key in evals[-1]:
                summary[key] = evals[-1][key]
        return summary

    def publish(self, trainer: Any, tokenizer: Any, *, card: str, facts: dict[str, Any]) -> Manifest:
        """Stage the model, the tokenizer (beside it and in tokenizer/), config.json with our settings, the card."""
        if not trainer.is_world_process_zero():
            return Manifest(step=self.step, attempt="", inputs={}, config={}, files=[])
        with staging(self.folder, self.lock) as staged:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(staged)
            tokenizer.save_pretrained(staged)
            tokenizer.save_pretrained(staged / "tokenizer")
            settings = {
                "step": self.step,
                "version": importlib.metadata.version("aios-alignment"),
                "inputs": self.inputs,
                "config": identity(self.config),
                "precision": self.precision,
                "metrics": {k: v for k, v in self.summary.items() if not k.endswith("_s")},
            }
            path = staged / "config.json"
            path.write_bytes(to_json(orjson.loads(path.read_bytes()) | {"alignment": settings | facts}))
            (staged / "README.md").write_text(card, encoding="utf-8", newline="\n")
            manifest = Manifest(
                step=self.step, attempt=attempt_id(), inputs=self.inputs, config=identity(self.config), files=[],
                versions=library_versions(),
            )  # fmt: skip
            manifest = publish_into(self.folder, staged, manifest, self.lock)
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        report_result(exit_code=0, message="published", manifest_sha256=manifest.sha256, skipped=False)
        LOG.info("Published %s", self.folder)
        return manifest


@contextlib.contextmanager
def training_session(config: TrainingConfig, *, step: str, inputs: dict[str, str]) -> Iterator[TrainingSession | None]:
    """Claim the output folder; yields None when it already holds exactly this result."""
    folder = Path(config.output_dir)
    with FolderLock(folder, attempt=attempt_id()) as lock, stop_on_signals() as stop:
        recover(folder, lock)
        settings = identity(config)
        manifest = already_published(folder, inputs=inputs, config=settings, overwrite=config.overwrite)
        if manifest is not None:
            LOG.info("%s is already there, made from the same inputs with the same settings: nothing to do", folder)
            report_result(exit_code=0, message="already published", manifest_sha256=manifest.sha256, skipped=True)
            yield None
            return
        _prepare(folder, lock, config, {"inputs": inputs, "config": settings})
        with log_to_file(folder / "training.log"):
            session = TrainingSession(config, step=step, inputs=inputs, lock=lock, stop=stop)
            LOG.debug("settings: %s", as_dict(config))
            try:
                yield session
            finally:
                session.metrics.close()


def _prepare(folder: Path, lock: FolderLock, config: TrainingConfig, current: dict[str, Any]) -> None:
    """Make the folder ready: what another configuration left unfinished in it is not mixed with this one."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / UNFINISHED
    earlier = orjson.loads(marker.read_bytes()) if marker.exists() else None
    finished = (folder / "_SUCCESS.json").exists()
    if earlier is not None and earlier != current and not config.overwrite and config.resume != "never":
        raise BadConfig(
            f"{folder} holds an unfinished training with other inputs or settings",
            next_step="use the same settings to resume it, --overwrite to drop it, or another output folder",
        )
    if finished or config.resume == "never" or (earlier is not None and earlier != current):
        retire(folder, lock)
    write_json(marker, current)


def library_versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    names = ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "aios-alignment")
    return {name: importlib.metadata.version(name) for name in names}
