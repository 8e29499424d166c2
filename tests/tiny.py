"""Real things made small: a two-layer model with its own tokenizer, and a published folder of splits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.lock import FolderLock
from jobs.contract.manifest import Manifest
from jobs.contract.publish import publish_whole, staging

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unused0>"]
_GOOD = ["thanks for asking", "here is a clear answer", "take these steps", "happy to help with that"]
_BAD = ["no idea at all", "go away please", "whatever you say", "this is not my problem"]


def make_tokenizer(folder: Path, *, template: bool = True) -> Any:
    """Train a byte-level BPE tokenizer of a few hundred tokens and save it as a fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([*_GOOD, *_BAD, "how do I make tea with milk user assistant"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|im_end|>"
    )
    if template:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(folder: Path, *, template: bool = True, seed: int = 0) -> Path:
    """Save a two-layer Llama (16 wide, random weights) and its tokenizer; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(folder, template=template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_rows(count: int, *, seed: int = 0, chat: bool = False) -> list[dict[str, Any]]:
    """Return preference rows whose better answer is told by its words."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        prompt, good, bad = f"how do I make tea number {index}?", rng.choice(_GOOD), rng.choice(_BAD)
        if chat:
            row: dict[str, Any] = {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": good}],
                "rejected": [{"role": "assistant", "content": bad}],
            }
        else:
            row = {"prompt": prompt, "chosen": good, "rejected": bad}
        rows.append(row)
    return rows


def make_splits(folder: Path, *, train: int = 24, held_out: int = 8, chat: bool = False, seed: int = 0) -> Path:
    """Publish a folder of splits as ingestion does; returns it."""
    rows = make_rows(train + 2 * held_out, seed=seed, chat=chat)
    parts = {"train": rows[:train], "eval": rows[train : train + held_out], "test": rows[train + held_out :]}
    return publish_rows(folder, parts, seed=seed)


def publish_rows(folder: Path, parts: dict[str, list[dict[str, Any]]], *, seed: int = 0) -> Path:
    """Publish the rows of each split as ingestion does; returns the folder."""
    with FolderLock(folder, attempt="test") as lock, staging(folder, lock) as staged:
        for name, part in parts.items():
            meta = [{"id": f"{name}-{i}", "chosen_first": i % 2 == 0, "agreement": 1.0} for i in range(len(part))]
            (staged / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in part))
            (staged / f"{name}.meta.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in meta))
        pairs = sum(len(part) for part in parts.values())
        report = {
            "validity": 0.98,
            "totals": {"records": pairs + 2, "pairs": pairs, "dropped": 2},
            "drops": {"tie": {"count": 2, "sample_ids": ["a", "b"]}},
            "splits": {name: {"pairs": len(part)} for name, part in parts.items()},
        }
        (staged / "schema_report.json").write_bytes(orjson.dumps(report))
        manifest = Manifest(step="ingest", attempt="test", inputs={"export": "made"}, config={"seed": seed}, files=[])
        publish_whole(folder, staged, manifest, lock)
    return folder
