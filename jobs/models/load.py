"""Loading models and tokenizers so that every step sees the same ones: pad is never EOS, weights are safetensors."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from jobs.contract.errors import BadConfig, UpstreamMissing
from jobs.contract.files import sha256_file, sha256_json
from jobs.contract.log import LOG
from jobs.contract.manifest import read_manifest, verify
from jobs.contract.places import check_folder
from jobs.models import hub

_PAD_LIKE = re.compile(r"(^|[^a-z])(pad|reserved|unused)", re.IGNORECASE)
NEW_PAD_TOKEN = "<|pad|>"  # noqa: S105 - a vocabulary entry
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def model_source(model: str) -> str:
    """Return what `from_pretrained` shall be given, after checking a folder before any heavy import.

    Raises:
        UpstreamMissing: the folder is unfinished, holds no model or pickled weights, or leads out of the workspace.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith((".", "/", "artifacts/", "~")) or "\\" in model or model.count("/") > 1:
            raise UpstreamMissing(
                f"{model} is not a folder",
                needed="a model folder or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct",
                next_step="check the path, or run `aios hrm-hf fetch-model` first",
            )
        return model
    check_folder(folder, UpstreamMissing)
    if read_manifest(folder) is not None:
        verify(folder, content=False)
    elif (folder / "checkpoints").is_dir() or folder.with_name(f".{folder.name}.lock").exists():
        raise UpstreamMissing(f"{folder} is an unfinished training", next_step="resume it, or name another model")
    weights = any(folder.glob("*.safetensors"))
    pickled = sorted({path.name for pattern in _PICKLED for path in folder.glob(pattern)} - {"training_args.bin"})
    if pickled and (not weights or "adapter_model.bin" in pickled):
        raise UpstreamMissing(
            f"{folder} holds its weights as {pickled[0]}, a pickle that can run code", needed="*.safetensors",
            next_step="convert it with save_pretrained where you trust it",
        )  # fmt: skip
    if not (folder / "config.json").is_file() or not weights:
        raise UpstreamMissing(f"{folder} holds no model", needed="config.json and weights", next_step="check the path")
    return model


def model_identity(model: str) -> str:
    """Return a hash that changes when the model's files do: the content of a folder, or a hub id with its commit."""
    folder = Path(model)
    if folder.is_dir():
        manifest = read_manifest(folder)
        if manifest is not None:
            return str(manifest.content_sha256)
        names = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in {".json", ".safetensors", ".bin"})
        return sha256_json([[p.name, sha256_file(p)] for p in names])
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    commit = Path(cached).parent.name if isinstance(cached, str) else "unresolved"
    return hashlib.sha256(f"hub:{model}@{commit}".encode()).hexdigest()


def load_config(model: str) -> Any:
    """Load a model's configuration; one that needs code of its own is refused."""
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, model)


def load_tokenizer(model: str) -> Any:
    """Load a tokenizer whose pad token is not its end-of-text token.

    With pad = EOS a reward model's score is read at the wrong place and a policy never learns to stop, so a reserved
    token of the vocabulary is taken; a new one only where there is none, see `fit_embeddings`.
    """
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, model)
    if tokenizer.eos_token is None:
        raise BadConfig(f"the tokenizer of {model} has no end-of-text token", next_step="choose another model")
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer)
        if tokenizer.pad_token_id is None or tokenizer.pad_token == NEW_PAD_TOKEN:
            tokenizer.add_special_tokens({"pad_token": NEW_PAD_TOKEN})
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    tokenizer.padding_side = "right"
    return tokenizer


def _spare_token(tokenizer: Any) -> str:
    """Choose a token of the vocabulary that no text and no template uses."""
    vocabulary = tokenizer.get_vocab()
    template = str(tokenizer.chat_template or "")
    special = sorted(set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()), key=vocabulary.__getitem__)
    used = {tokenizer.eos_token, tokenizer.bos_token}
    free: list[str] = [token for token in special if token not in used and token not in template]
    for token in free:
        if _PAD_LIKE.search(token):
            return token
    if tokenizer.unk_token in free:
        return str(tokenizer.unk_token)
    return free[0] if free else NEW_PAD_TOKEN


def load_causal(model: str, tokenizer: Any, **kwargs: Any) -> Any:
    """Load a causal language model in fp32 (or `dtype`), told the tokenizer's pad token."""
    from transformers import AutoModelForCausalLM

    return _prepared(_from_pretrained(AutoModelForCausalLM, model, **_load_options(kwargs)), tokenizer)


def load_reward(model: str, tokenizer: Any, **kwargs: Any) -> Any:
    """Load a sequence classifier with one output, the reward; a causal model gets a new head (seed it first)."""
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    with suppress_seqcls_warning():
        loaded = _from_pretrained(AutoModelForSequenceClassification, model, num_labels=1, **_load_options(kwargs))
    return _prepared(loaded, tokenizer)


def _load_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {"dtype": torch.float32, "use_safetensors": True} | kwargs


def _prepared(model: Any, tokenizer: Any) -> Any:
    fit_embeddings(model, tokenizer)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def fit_embeddings(model: Any, tokenizer: Any) -> None:
    """Add rows to the embeddings when the tokenizer had to grow; larger (padded) embeddings stay as they are."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
        LOG.info("Embeddings grew from %d to %d rows for the pad token", rows, len(tokenizer))


def _from_pretrained(auto: Any, model: str, **kwargs: Any) -> Any:
    """Call `from_pretrained` and turn what goes wrong into one line; code that comes with a model is never run."""
    source = model_source(model)
    local = Path(source).is_dir()
    if not local and not hub.in_cache(source):
        hub.resolve(source)
    try:
        only_local = not local and hub.in_cache(source)
        return auto.from_pretrained(source, local_files_only=only_local, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as exc:
        if local:
            raise UpstreamMissing(f"{source} cannot be loaded ({exc})", next_step="fetch or train it again") from exc
        raise hub.unreachable(source, exc) from exc


def same_tokenizer(first: Any, second: Any) -> str:
    """Return in what two tokenizers differ; empty when token ids mean the same in both."""
    if first.get_vocab() != second.get_vocab():
        return f"their vocabularies differ ({len(first)} and {len(second)} tokens)"
    probe = "How are you?\n\n1 2 3 - déjà vu"
    if first(probe)["input_ids"] != second(probe)["input_ids"]:
        return "they cut the same text into different tokens"
    if first.eos_token_id != second.eos_token_id:
        return f"their end-of-text tokens differ ({first.eos_token} and {second.eos_token})"
    return ""
