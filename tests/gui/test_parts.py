"""The parts behind the pages: curves, logs, forms, rows, the picture of all runs."""

from __future__ import annotations

import itertools
import math
import random
import threading
from array import array
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.config.fields import field_specs
from jobs.config.rm import RMConfig
from jobs.contract.errors import AiosError
from jobs.contract.metrics import MetricsWriter
from k8s.gui import artifacts, launch, logs, previews
from k8s.gui.cloning import clone
from k8s.gui.datasets import Rows, data_set, data_sets
from k8s.gui.launch import Form
from k8s.gui.loglines import LoggedMetrics
from k8s.gui.runs import RunBook
from k8s.gui.series import MetricsFile
from k8s.gui.settings import SETTINGS
from k8s.gui.thinning import STRETCHES, Extremes
from k8s.values import compose
from tests import tiny
from tests.gui.panel import until


def _metrics(path: Path, steps: int) -> MetricsWriter:
    writer = MetricsWriter(path)
    for step in range(1, steps + 1):
        writer.write("train", step, loss=1 / step, accuracy=0.5 if step % 2 else None)
    return writer


def test_thinning_keeps_every_extreme() -> None:
    """Of 100,000 points the largest, the smallest and the newest are drawn, and at most two for each stretch."""
    rng = random.Random(1)
    ys = array("d", [rng.random() for _ in range(100_000)])
    ys[54_321], ys[12_345] = 50.0, -50.0
    picked = Extremes().indices(ys)
    assert {54_321, 12_345, 99_999} <= set(picked)
    assert STRETCHES <= len(picked) <= 2 * STRETCHES + 3
    assert picked == sorted(picked)


@pytest.mark.parametrize("gaps", [0.0, 0.3, 0.999])
def test_thinning_as_it_grows_is_thinning_at_once(gaps: float) -> None:
    """Brought up to date after every few new values, with or without gaps, it picks what one look at the end picks."""
    rng = random.Random(2)
    ys, growing = array("d"), Extremes()
    while len(ys) < 20_000:
        ys.extend(math.nan if rng.random() < gaps else rng.random() for _ in range(rng.randrange(1, 900)))
        picked = growing.indices(ys)
    assert picked == Extremes().indices(ys)
    there = [y for y in ys if not math.isnan(y)]
    assert {min(there), max(there)} <= {ys[i] for i in picked}
    assert not any(math.isnan(ys[i]) for i in picked)


def test_few_points_are_all_drawn(workspace: Path) -> None:
    """Nothing is thinned out that fits on the screen, nor of the last steps where only those are asked for."""
    path = Path("artifacts/rm/a/metrics.jsonl")
    _metrics(path, 3000).close()
    file = MetricsFile(path)
    file.refresh()
    assert STRETCHES < len(file.points("loss")) < 900
    assert [x for x, _ in file.points("loss", last=1000)] == list(range(2001, 3001))
    assert len(file.points("accuracy", last=1000)) == 500


def test_curves_follow_the_file(workspace: Path) -> None:
    """New lines appear, a torn one waits for its end, nulls leave a gap, nonsense is passed over."""
    path = Path("artifacts/rm/a/metrics.jsonl")
    _metrics(path, 3).close()
    file = MetricsFile(path)
    first = file.refresh()
    assert file.points("loss") == [[1, 1], [2, 0.5], [3, 0.3333333]]
    assert file.points("accuracy") == [[1, 0.5], [3, 0.5]]
    assert not file.has("eval_loss")
    assert file.refresh() == first
    with path.open("ab") as out:
        out.write(b'not json\n[1]\n{"kind":"train","step":"x"}\n{"kind":"train","step":4,"loss":"?"}\n{"kind":"tra')
    assert file.refresh() > first
    assert len(file.points("loss")) == 3
    with path.open("ab") as out:
        out.write(b'in","step":5,"time":1.0,"loss":9.0}\n')
    file.refresh()
    assert file.points("loss")[-1] == [5, 9]


def test_a_resumed_run_is_read_anew(workspace: Path) -> None:
    """When a resumed run cuts the file back to its checkpoint, the lines that were cut are no longer drawn."""
    path = Path("artifacts/rm/a/metrics.jsonl")
    _metrics(path, 10).close()
    file = MetricsFile(path)
    file.refresh()
    writer = MetricsWriter(path, resume_step=4)
    writer.write("train", 5, loss=7.0)
    writer.close()
    file.refresh()
    assert [x for x, _ in file.points("loss")] == [1, 2, 3, 4, 5]


def test_a_log_has_curves_too(workspace: Path) -> None:
    """Without the volume the steps that a trainer prints are drawn; once the file is there, the file."""
    said = [
        "2026 | Training 11,088 of 11,088 weights",
        "rm step 0/30  eval_loss 0.6932  eval_auc 0.4928",
        "rm step 9/30  loss 0.70  accuracy 0.5000  margin -5.86e-05  18.9 pairs/s  0:05:07 left",
        "rm step 9/30  loss 0.60  accuracy 1.0000  18.9 pairs/s",
    ]
    file = LoggedMetrics(Path("artifacts/rm/a/metrics.jsonl"), lambda: tuple(said))
    first = file.refresh()
    assert file.points("loss") == [[9, 0.6]]
    assert file.points("eval_auc") == [[0, 0.4928]]
    assert file.points("loss", "time") == []
    assert file.refresh() == first
    said.append("rm step 10/30  loss 0.5")
    assert file.refresh() > first
    assert file.points("loss")[-1] == [10, 0.5]
    _metrics(Path("artifacts/rm/a/metrics.jsonl"), 2).close()
    file.refresh()
    assert file.points("loss") == [[1, 1], [2, 0.5]]


def test_logs_show_their_end_and_what_is_searched(workspace: Path) -> None:
    """The last lines, or the lines that hold a word; a progress bar's carriage returns leave its last state."""
    path = Path("artifacts/runs/a/stdout.log")
    path.parent.mkdir(parents=True)
    lines = [f"line {i}" for i in range(50_000)]
    path.write_text("\n".join(lines) + "\n 10%\r 100%\nlast")
    assert logs.tail(path, 3).lines == ("line 49999", " 100%", "last")
    found = logs.search(path, "LINE 4999", 2)
    assert found.lines == ("line 49998", "line 49999")
    assert found.found == 1 + 10
    assert logs.tail(Path("artifacts/none")).lines == ()


def test_a_form_is_the_command_it_shows(workspace: Path) -> None:
    """The values that the panel submits are those that `aios jobs submit` makes of the command on the page."""
    args: dict[str, Any] = {"base_model": "models/007", "lr": 1e-4, "batch_size": 2, "gradient_checkpointing": True}
    form = Form(kind="rm", dataset="preferences", args={"rm": args})
    shown = form.submit_command("a")
    settings = [word for flag, word in itertools.pairwise(shown) if flag == "--set"]
    assert compose("local", settings=settings, name="a") == launch.compose(form, "a")
    assert launch.compose(form, "a")["steps"]["rm"]["args"]["base_model"] == "models/007"


@pytest.mark.parametrize("value", ["true", "1e5", "null", "a b", "x: y", "[1]", "ünï", "-", "#"])
def test_texts_stay_texts(workspace: Path, value: str) -> None:
    """A text that looks like something else in YAML arrives as the text it is."""
    form = Form(kind="rm", dataset="preferences", args={"rm": {"wandb": value}})
    assert launch.compose(form, "a")["steps"]["rm"]["args"]["wandb"] == value


def test_a_clone_is_the_same_run(workspace: Path) -> None:
    """Cloning gives the same steps, data and settings under another name."""
    args = {"rm": {"base_model": "models/a", "max_steps": 7}, "dpo": {"policy_model": "models/a", "beta": 0.3}}
    form = Form(kind="pipeline", dataset="preferences", args=args)
    values = launch.compose(form, "first")
    assert launch.compose(clone(values, "local"), "first") == values


@pytest.mark.parametrize("profile", ["kind-cpu", "gpu", "gpu-multinode"])
def test_a_clone_keeps_what_the_page_has_no_field_for(workspace: Path, profile: str) -> None:
    """A run of a cluster, whose profile nobody remembers, is cloned with its images, resources and labels."""
    settings = ["run.dataset=d", "image.tag=own", "steps.rm.resources.limits.memory=7Gi", "steps.ingest.enabled=false"]
    settings += ["steps.rm.args.batch_size=8", "steps.dpo.args.beta=0.5", r"labels.team\.example/name=1e3"]
    values = compose(profile, settings=settings, name="first")
    assert launch.compose(clone(values, "kubernetes"), "first") == values


def test_a_field_left_empty_shows_what_will_be_used(workspace: Path) -> None:
    """The panel knows each setting's default with its profile, and what a run would look for in vain."""
    form = Form(kind="pipeline", dataset="preferences")
    base = launch.defaults(form)["rm"]["base_model"]
    said = launch.absent(launch.compose(form, "a"))
    assert [words.split(" is not")[0] for words in said] == ["training_data/curated_datasets/preferences", base]
    Path(base).mkdir(parents=True)
    Path("training_data/curated_datasets/preferences").mkdir(parents=True)
    assert launch.absent(launch.compose(form, "a")) == []


def test_fields_say_what_they_need() -> None:
    """A text that is no number, or out of range, is refused with what is needed."""
    specs = {spec.name: spec for spec in field_specs(RMConfig)}
    assert launch.parse(specs["batch_size"], " 4 ") == 4
    assert launch.parse(specs["batch_size"], "") is None
    assert launch.parse(specs["lr"], "2e-5") == 2e-5
    for name, text in (("batch_size", "0"), ("batch_size", "x"), ("batch_size", "1.5"), ("lr", "nan")):
        with pytest.raises(ValueError, match=r"number|at least"):
            launch.parse(specs[name], text)


def test_two_starts_at_once_make_two_runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three people who press Start in the same second get three runs, each whole."""
    monkeypatch.setattr(SETTINGS, "read_only", False)
    names: list[str] = []

    def start(number: int) -> None:
        form = Form(kind="ingest", dataset=f"set-{number}", args={"ingest": {"input": ["none.jsonl"]}})
        names.append(launch.start(form))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 3
    documents = [orjson.loads(Path(f"artifacts/runs/{name}/run.json").read_bytes()) for name in names]
    assert sorted(document["values"]["run"]["dataset"] for document in documents) == ["set-0", "set-1", "set-2"]
    until(lambda: all(view.ended for view in RunBook().refresh()), "their ends", 60)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://wandb.example/a/p/runs/7", ("W&B run p/7", "https://wandb.example/a/p/runs/7")),
        (None, ("W&B run p/7, kept offline", "")),
        ("javascript:alert(1)", ("W&B run p/7, kept offline", "")),
    ],
)
def test_tracking_is_linked_where_it_has_an_address(workspace: Path, url: str | None, shown: tuple[str, str]) -> None:
    """A run at Weights & Biases is a link; offline, or with something that is no address of the web, it is words."""
    values = launch.compose(Form(kind="rm", dataset="preferences"), "a")
    folder = Path("artifacts/rm/a/wandb")
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(orjson.dumps({"id": "7", "project": "p", "url": url}))
    assert artifacts.of_run(values)[0].tracking == shown


def test_rows_are_found_by_number_and_word(workspace: Path) -> None:
    """Any row is read without those before it; a search ignores case; a new set is seen at once."""
    folder = Path("training_data/curated_datasets/preferences")
    tiny.make_splits(folder)
    rows = Rows(folder / "train.jsonl")
    assert rows.index() == 24
    assert rows.read([5])[0][1]["prompt"] == "how do I make tea number 5?"
    assert rows.search("TEA NUMBER 7") == [7]
    assert data_set("preferences").splits() == {"train": 24, "eval": 8, "test": 8}
    assert [item.name for item in data_sets()] == ["preferences"]
    with pytest.raises(AiosError):
        data_set("none")


def test_previews_say_whose_they_are() -> None:
    """A preview's name holds the name of the data it is for; a data set of a person is never a preview."""
    form = previews.named(Form(kind="ingest"), "preferences", preview=True)
    assert previews.target_of(form.dataset) == "preferences"
    assert previews.named(form, "preferences", preview=False).dataset == "preferences"
    assert previews.target_of("preferences") == ""
    with pytest.raises(AiosError):
        previews.discard("preferences")


def test_a_run_is_found_the_moment_it_is_started(workspace: Path) -> None:
    """Whoever presses Start is led to a page that knows the run, although all runs were read an instant before."""
    book = RunBook()
    book.refresh()
    (workspace / "artifacts/runs/young").mkdir(parents=True)
    assert book.find("young").name == "young"
    with pytest.raises(AiosError, match="no run named"):
        book.find("none")


def test_one_broken_run_hides_no_other(workspace: Path) -> None:
    """Files that make no sense show up as an unreadable run beside the others."""
    for name, content in (("a", b"{}"), ("b", b"nonsense"), ("c", b'{"values": {"steps": {"rm": 3}}}')):
        (Path("artifacts/runs") / name).mkdir(parents=True)
        (Path("artifacts/runs") / name / "run.json").write_bytes(content)
    values = launch.compose(Form(kind="rm", dataset="preferences"), "d")
    values["steps"]["rm"]["args"]["output_dir"] = "/etc"
    (Path("artifacts/runs") / "d").mkdir()
    (Path("artifacts/runs") / "d" / "run.json").write_bytes(orjson.dumps({"values": values}))
    assert {view.name: view.phase for view in RunBook().refresh()} == dict.fromkeys("abcd", "unreadable")
