"""The demo model on a real cluster by helm and kubectl alone, and the same run at home: same files, same numbers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from jobs.contract.manifest import verify
from tests.kubernetes.cluster import IMAGES, SAMPLE, Space, kubectl, new_space
from tests.kubernetes.rendering import CHARTS, REPOSITORY, helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
# Fractions by --set-json: helm's --set takes them for text, and the schema refuses it.
# The demo takes ten minutes on two free cores; this is a tenth of it. AIOS_TEST_DEMO=whole runs all of it.
SHORT = [f"--set=steps.{step}.args.max_steps=10" for step in ("rm", "dpo")]
SHORT += [
    f"--set-json=steps.ingest.args.{part}_ratio={share}"
    for part, share in (("train", 0.9), ("eval", 0.05), ("test", 0.05))
]
# One thread: two that other work keeps waiting are far slower than one.
SHORT += [f"--set=steps.{step}.resources.limits.cpu=1" for step in ("rm", "dpo", "evaluation")]
SHORT += ["--set=steps.evaluation.args.num_generations=8", "--set=steps.evaluation.args.max_new_tokens=16"]
if os.environ.get("AIOS_TEST_DEMO") == "whole":
    SHORT = []
FOLDERS = {
    "fetch-model": "artifacts/base/smollm2-135m-instruct",
    "ingest": "training_data/curated_datasets/preferences",
    "rm": "artifacts/rm/demo",
    "dpo": "artifacts/dpo/demo",
    "evaluation": "artifacts/evaluation/demo",
}


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


@pytest.fixture
def bare_shell(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH holds helm and kubectl and nothing else: no aios, no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("helm", "kubectl"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    return {"PATH": str(folder), "KUBECONFIG": os.environ.get("KUBECONFIG", ""), "HOME": str(tmp_path)}


def test_helm_and_kubectl_alone_reach_the_verdict(space: Space, bare_shell: dict[str, str]) -> None:
    """From the sample on the volume to the verdict with SmolLM2-135M, and the Jobs show the runbook's commands."""

    def run(*command: str) -> str:
        done = subprocess.run(command, env=bare_shell, cwd=bare_shell["HOME"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    namespace = f"--namespace={space.namespace}"
    values = str(CHARTS / "run" / "demo-values.yaml")
    space.releases.append("demo")
    run("helm", "install", "demo", str(CHARTS / "run"), namespace, "-f", values, *IMAGES, *SHORT)
    run("kubectl", namespace, "wait", "--for=condition=Complete", "job/demo-conductor", "--timeout=5000s")
    for step, folder in FOLDERS.items():
        assert verify(space.folder / folder, step=step)
    report = orjson.loads((space.folder / "artifacts/evaluation/demo/report.json").read_bytes())
    print(f"\n{report['verdict']['sentence']}\n{report['headline']}")
    commands = [
        shlex.join(yaml.safe_load(run("kubectl", namespace, "get", "job", f"demo-{step}", "-o", "yaml"))
                   ["spec"]["template"]["spec"]["containers"][0]["args"])
        for step in FOLDERS
    ]  # fmt: skip
    print("\n".join(commands))
    for said, expected in zip(
        commands,
        [
            "aios hrm-hf fetch-model --output-dir artifacts/base/smollm2-135m-instruct",
            "aios data argilla-export --input training_data/sample/argilla_export.jsonl --output",
            "aios hrm-hf rm-train --base-model artifacts/base/smollm2-135m-instruct",
            "aios hrm-hf dpo-train --policy-model artifacts/base/smollm2-135m-instruct",
            "aios hrm-hf evaluate --dataset-dir training_data/curated_datasets/preferences",
        ],
        strict=True,
    ):
        assert said.startswith(expected)


def published(root: Path, name: str) -> dict[str, set[str]]:
    """Return the published files of each step."""
    folders = {"ingest": f"training_data/curated_datasets/{name}"} | {
        step: f"artifacts/{step}/{name}" for step in ("rm", "dpo", "evaluation")
    }
    return {step: {file.path for file in verify(root / folder).files} for step, folder in folders.items()}


def test_the_same_values_at_home_give_the_same_files_and_numbers(space: Space, tmp_path: Path) -> None:
    """The local profile and the cluster publish the same files, and the verdict has the same numbers."""
    space.install("same")
    assert space.wait("same", 1800) == "succeeded"
    home = tmp_path / "home"
    shutil.copytree(space.folder / "artifacts/base/tiny", home / "artifacts/base/tiny")
    (home / "training_data/sample").mkdir(parents=True)
    shutil.copy(SAMPLE, home / "training_data/sample")
    values = yaml.safe_load((space.values_folder / "same.yaml").read_text()) | {"backend": "local"}
    (tmp_path / "home.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "jobs.cli", "jobs", "submit", "--profile", str(tmp_path / "home.yaml"), "--name"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*command, "same", "--follow"], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert published(home, "same") == published(space.folder, "same")
    for step in ("rm", "dpo"):
        found = {p.name for p in (home / f"artifacts/{step}/same").iterdir() if not p.name.startswith(".")}
        assert found == {
            p.name for p in (space.folder / f"artifacts/{step}/same").iterdir() if not p.name.startswith(".")
        }
    reports = [
        orjson.loads((root / "artifacts/evaluation/same/report.json").read_bytes()) for root in (home, space.folder)
    ]
    assert reports[0]["headline"] == reports[1]["headline"]


def test_one_command_from_an_empty_namespace_to_models_that_load(space: Space) -> None:
    """`make cluster-demo` makes namespace, claim and run, waits for the verdict, and brings home models that load."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    namespace, folder = f"{space.namespace}-one", space.folder / "one"
    folder.mkdir()
    folder.chmod(0o777)
    settings = ["--set image.pullPolicy=Never", f"--set image.tag={os.environ.get('AIOS_TEST_TAG', '0.1.0-cpu')}"]
    settings += [word.replace("--set-json=", "--set ").replace("--set=", "--set ") for word in SHORT]
    environment = os.environ | {
        "NAMESPACE": namespace,
        "RUN": "one",
        "PLATFORM": f"--set workspace.hostPath={folder}",
        "SETTINGS": " ".join(settings),
        "AIOS": f"{sys.executable} -m jobs.cli",
    }
    home = REPOSITORY / "build/demo"
    shutil.rmtree(home, ignore_errors=True)
    try:
        script = str(REPOSITORY / "k8s/local/cluster-demo.sh")
        done = subprocess.run([script], env=environment, capture_output=True, text=True)
        print(f"\n{done.stderr[-3000:]}\n{done.stdout[-3000:]}")
        assert done.returncode == 0
    finally:
        for release in ("one", "platform"):
            helm("uninstall", release, "--namespace", namespace, "--ignore-not-found")
        kubectl("delete", "namespace", namespace, "--wait=false", check=False)
        kubectl("delete", "pv", f"aios-alignment-{namespace}-aios-workspace", "--wait=false", check=False)
    assert AutoModelForCausalLM.from_pretrained(home / "dpo/one").config.model_type == "llama"
    assert AutoModelForSequenceClassification.from_pretrained(home / "rm/one").config.num_labels == 1
    assert orjson.loads((home / "evaluation/one/report.json").read_bytes())["verdict"]["sentence"]
