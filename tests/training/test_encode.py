"""From rows to token ids: template, ends of answers, truncation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.errors import BadConfig
from jobs.models.load import load_tokenizer
from jobs.training.encode import PairEncoder, encode_split
from tests import tiny
from tests.training.study import Study

WORDS = st.lists(st.sampled_from(["tea", "milk", "how", "please", "no", "idea"]), min_size=1, max_size=40).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer(study: Study) -> Any:
    return load_tokenizer(str(study.root / "tiny"))


def encoder(tokenizer: Any, **changes: Any) -> PairEncoder:
    return PairEncoder(tokenizer, **({"chat_template": "auto", "max_length": 64, "truncation": "right"} | changes))


def test_plain_text_gets_the_template_as_one_user_and_one_assistant_turn(tokenizer: Any) -> None:
    """A string row and the chat row of the same words are the same tokens."""
    text = {"prompt": "how do I make tea?", "chosen": "with milk", "rejected": "no idea"}
    chat = {
        "prompt": [{"role": "user", "content": "how do I make tea?"}],
        "chosen": [{"role": "assistant", "content": "with milk"}],
        "rejected": [{"role": "assistant", "content": "no idea"}],
    }
    pair = encoder(tokenizer).encode(text)
    assert pair == encoder(tokenizer).encode(chat)
    assert tokenizer.decode(pair.prompt_ids + pair.chosen_ids) == (
        "<|im_start|>user\nhow do I make tea?<|im_end|>\n<|im_start|>assistant\nwith milk<|im_end|>\n"
    )


def test_without_a_template_answers_end_in_one_end_token(tokenizer: Any) -> None:
    """Plain joining adds the end-of-text token once, also where the answer brings its own."""
    for answer in ("with milk", "with milk<|im_end|>"):
        pair = encoder(tokenizer, chat_template="none").encode({"prompt": "tea? ", "chosen": answer, "rejected": "no"})
        assert pair.chosen_ids.count(tokenizer.eos_token_id) == 1
        assert pair.chosen_ids[-1] == tokenizer.eos_token_id


def test_chats_without_a_template_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    """A tokenizer without template cannot render a chat, and says what to do."""
    bare = tiny.make_tokenizer(tmp_path, template=False)
    row = {"prompt": [{"role": "user", "content": "tea?"}], "chosen": [], "rejected": []}
    with pytest.raises(BadConfig, match="instruct model"):
        encoder(bare).encode(row)


@settings(max_examples=60, deadline=None)
@given(prompt=WORDS, chosen=WORDS, rejected=WORDS, length=st.integers(8, 48), side=st.sampled_from(["left", "right"]))
@pytest.mark.parametrize("template", ["auto", "none"])
def test_truncation_never_eats_an_answer(
    tokenizer: Any, prompt: str, chosen: str, rejected: str, length: int, side: str, template: str
) -> None:
    """However short the limit: both answers share one prompt, keep tokens and their end, and fit."""
    pair = encoder(tokenizer, max_length=length, truncation=side, chat_template=template).encode(
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    )
    whole = encoder(tokenizer, max_length=10_000, chat_template=template).encode(
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    )
    assert whole.prompt_ids[len(whole.prompt_ids) - len(pair.prompt_ids) :] == pair.prompt_ids
    for cut, full in ((pair.chosen_ids, whole.chosen_ids), (pair.rejected_ids, whole.rejected_ids)):
        assert len(cut) > 0
        assert len(pair.prompt_ids) + len(cut) <= length
        assert tokenizer.eos_token_id in cut
        if side == "left":
            assert full[len(full) - len(cut) :] == cut


def test_rows_read_are_rows_used_plus_rows_dropped(tokenizer: Any) -> None:
    """Each reason has its count, and the sum is the number of rows."""
    rows = [*tiny.make_rows(5), {"prompt": "x", "chosen": "same", "rejected": "same"}]
    split = encode_split(encoder(tokenizer), rows)
    assert split.accounting() == {"rows_read": 6, "rows_used": 5, "rows_truncated": 0, "dropped_identical_tokens": 1}
    assert split.kept == [0, 1, 2, 3, 4]
