"""The charts, rendered by the real helm: whole objects, strict schemas, Pod Security, and what they refuse."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import BadConfig
from k8s import values as run_values
from k8s.chart import chart_folder, generated_files
from k8s.schema import NAME_PATTERN
from tests.kubernetes.rendering import CHARTS, REPOSITORY, helm, objects, pods, render, violations

kubernetes_validate = pytest.importorskip("kubernetes_validate")

PROFILES = [name for name in run_values.profile_names() if name != "local"]
MANIFESTS = Path(__file__).with_name("manifests")
VERSIONS = ("1.34", "1.36", "1.37")


def write_values(profile: str, folder: Path, *settings: str) -> Path:
    """Compose the values of a profile as `aios jobs render` does."""
    values = run_values.compose(
        profile, inputs=["training_data/sample/argilla_export.jsonl"], settings=settings, name="demo"
    )
    path = folder / f"{profile}.yaml"
    path.write_text(run_values.to_yaml(values))
    return path


def all_renderings(folder: Path) -> dict[str, str]:
    """Return every rendering that the committed manifests hold."""
    found = {profile: render("run", write_values(profile, folder)) for profile in PROFILES}
    found["lint"] = render("run", CHARTS / "run" / "lint-values.yaml", release="lint")
    everything = ["workspace.hostPath=/srv/aios", "admission.enabled=true", "admission.registries={registry.example/}"]
    everything += [
        "admission.requireDigest=true",
        "quota.hard.pods=10",
        "networkPolicy.dns[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=kube-system",
        "networkPolicy.egress.evaluation[0].to[0].ipBlock.cidr=203.0.113.7/32",
        "panel.enabled=true",
        "panel.submit=true",
        "panel.token.secret=panel-token",
    ]
    found["platform"] = render("platform", None, release="platform")
    found["platform-everything"] = render(
        "platform", None, *[f"--set={item}" for item in everything], release="platform"
    )
    return found


def test_manifests_are_those_that_were_committed(tmp_path: Path) -> None:
    """Every profile renders, line for line, to what is committed. AIOS_UPDATE_MANIFESTS=1 writes them anew."""
    for name, rendered in all_renderings(tmp_path).items():
        text = re.sub(r"\n+---\n", "\n---\n", rendered)  # helm 4.1 and 4.2 leave more or fewer blank lines there
        path = MANIFESTS / f"{name}.yaml"
        if os.environ.get("AIOS_UPDATE_MANIFESTS"):
            path.write_text(text)
        assert path.read_text() == text, f"{path} differs; look at the change, then AIOS_UPDATE_MANIFESTS=1"


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_manifests_fit_the_strict_schemas_of_kubernetes(path: Path) -> None:
    """No field is unknown, missing or of another type in Kubernetes 1.34, 1.36 and 1.37."""
    for item in objects(path.read_text()):
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_pod_is_restricted(path: Path) -> None:
    """Pod Security's `restricted` accepts each pod; roots are read-only; steps carry no token."""
    for name, pod in pods(objects(path.read_text())):
        assert violations(pod) == [], name
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in pod["containers"])
        assert pod["automountServiceAccountToken"] is name.endswith(("-conductor", "-panel"))


def test_commands_are_those_of_the_local_profile(tmp_path: Path) -> None:
    """The chart turns settings into the same arguments as the launcher: one rule, two implementations."""
    path = write_values("kind-cpu", tmp_path, "steps.rm.args.gradient_checkpointing=true", "steps.dpo.args.beta=0.2",
                        "steps.ingest.args.shuffle_seed=2000000", "steps.rm.args.overwrite=false")  # fmt: skip
    rendered = dict(pods(objects(render("run", path))))
    enabled = run_values.enabled_steps(run_values.read_values(path))
    for name, step in enabled.items():
        assert rendered[f"demo-{name}"]["containers"][0]["args"] == run_values.command(name, step)
    assert set(rendered) == {f"demo-{name}" for name in enabled} | {"demo-conductor"}


def test_shards_are_the_pods_of_an_indexed_job(tmp_path: Path) -> None:
    """`shards: 3` makes three pods that take a third of the rows each, and all of them must succeed."""
    path = write_values("gpu", tmp_path, "steps.rm-score.enabled=true", "steps.rm-score.shards=3",
                        "steps.rm-score.args.input=answers.jsonl")  # fmt: skip
    job = next(o for o in objects(render("run", path)) if o["metadata"]["name"] == "demo-rm-score")
    spec, container = job["spec"], job["spec"]["template"]["spec"]["containers"][0]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 0)
    assert "successPolicy" not in spec
    assert "backoffLimit" not in spec
    assert container["args"][-2:] == ["--shard", "$(AIOS_SHARD)/3"]
    env = {item["name"]: item for item in container["env"]}
    assert env["AIOS_OUTPUT"]["value"] == ""
    assert "job-completion-index" in env["AIOS_SHARD"]["valueFrom"]["fieldRef"]["fieldPath"]
    with pytest.raises(BadConfig, match="shards"):
        write_values("gpu", tmp_path, "steps.rm.shards=3")


def test_every_step_is_suspended_and_knows_what_it_needs(tmp_path: Path) -> None:
    """No step starts by itself; disabled ones are needed by nobody."""
    path = write_values("kind-cpu", tmp_path, "steps.rm.enabled=false")
    jobs = {o["metadata"]["name"]: o for o in objects(render("run", path)) if o["kind"] == "Job"}
    steps = {name: job for name, job in jobs.items() if name != "demo-conductor"}
    assert all(job["spec"]["suspend"] is True for job in steps.values())
    assert steps["demo-dpo"]["metadata"]["annotations"]["aios-alignment/needs"] == "fetch-model,ingest"


def test_the_conductor_may_change_the_jobs_of_its_run_and_nothing_else(tmp_path: Path) -> None:
    """Its Role has no wildcard, creates and deletes nothing, and names what it patches."""
    rules = next(o for o in objects(render("run", write_values("gpu", tmp_path))) if o["kind"] == "Role")["rules"]
    verbs = {verb for rule in rules for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch", "patch"}
    changing = [rule for rule in rules if "patch" in rule["verbs"]]
    assert [sorted(rule["resourceNames"]) for rule in changing] == [
        ["demo-dpo", "demo-evaluation", "demo-ingest", "demo-rm"],
        ["demo-status"],
    ]
    assert {kind for rule in rules for kind in rule["resources"]} == {
        "jobs", "pods", "events", "configmaps", "persistentvolumeclaims",
    }  # fmt: skip
    assert [rule["resourceNames"] for rule in rules if rule["resources"] == ["persistentvolumeclaims"]] == [
        ["aios-workspace"]
    ]


def _panel(*settings: str) -> dict[str, Any]:
    given = [f"--set=panel.{item}" for item in ("enabled=true", "token.secret=panel-token", *settings)]
    return {item["kind"]: item for item in objects(render("platform", None, *given, release="platform"))}


def test_the_panel_has_every_right_that_a_run_s_role_gives_away(tmp_path: Path) -> None:
    """The API server lets nobody make a Role with rights that he lacks."""
    values = write_values("kind-cpu", tmp_path, "kueue.queue=team")
    given = next(o for o in objects(render("run", values)) if o["kind"] == "Role")["rules"]
    owned = {
        (group, kind, verb)
        for rule in _panel("submit=true")["Role"]["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    for rule in given:
        for kind, verb in itertools.product(rule["resources"], rule["verbs"]):
            assert (rule["apiGroups"][0], kind, verb) in owned


def test_the_panel_looks_and_with_submit_it_launches() -> None:
    """Read-only it changes nothing, nor on the volume; with submit it has a launcher's rights, none on Secrets."""
    looking, submitting = _panel(), _panel("submit=true")
    verbs = {verb for rule in looking["Role"]["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch"}
    for found, read_only in ((looking, True), (submitting, False)):
        pod = found["Deployment"]["spec"]["template"]["spec"]
        env = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
        assert env["AIOS_GUI_READ_ONLY"]["value"] == str(read_only).lower()
        assert env["AIOS_GUI_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "panel-token", "key": "token"}
        mounts = {mount["name"]: mount.get("readOnly", False) for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"tmp": False, "workspace": read_only}
        assert violations(pod) == []
        kinds = {kind for rule in found["Role"]["rules"] for kind in rule["resources"]}
        assert "secrets" not in kinds
        assert "*" not in kinds
    assert env["HELM_DRIVER"]["value"] == "configmap"
    may = {kind: set(rule["verbs"]) for rule in submitting["Role"]["rules"] for kind in rule["resources"]}
    for kind in ("jobs", "configmaps", "services", "serviceaccounts", "roles", "rolebindings"):
        assert {"get", "create", "patch", "delete"} <= may[kind], kind


def _rights(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    rules = role["rules"]
    return {
        (g, kind, v) for rule in rules for g in rule["apiGroups"] for kind in rule["resources"] for v in rule["verbs"]
    }


def test_the_panel_can_give_the_conductor_its_rights(tmp_path: Path) -> None:
    """Whatever a run's conductor may do the panel may do too, with or without Kueue; else the API server refuses it."""
    values = write_values("kind-cpu", tmp_path, "kueue.queue=q")
    (conductor,) = (item for item in objects(render("run", values)) if item["kind"] == "Role")
    assert _rights(conductor) - _rights(_panel("submit=true")["Role"]) == set()


def test_the_panel_can_do_without_the_volume() -> None:
    """`mountWorkspace: false` leaves a ReadWriteOnce claim to the steps; a digest, where given, names the image."""
    digest = f"sha256:{'0' * 64}"
    pod = _panel("mountWorkspace=false", f"image.digest={digest}")["Deployment"]["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    assert pod["containers"][0]["image"] == f"localhost/aios-alignment/gui@{digest}"


def test_the_panel_needs_a_token() -> None:
    """Without the name of a Secret it is not installed, and the error says how to make one."""
    text = helm("template", "platform", str(CHARTS / "platform"), "--set=panel.enabled=true", code=1)
    assert "panel.token.secret is missing" in text
    assert "kubectl create secret generic" in text


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps.dpo.args.betta=1", "betta"),
        ("steps.nope.enabled=true", "nope"),
        ("run.name=Bad_Name", "does not match pattern"),
        ("steps.rm.backoffLimit=many", "backoffLimit"),
    ],
)
def test_helm_alone_refuses_typos(tmp_path: Path, setting: str, said: str) -> None:
    """The schema that the launcher uses stops `helm install` as well."""
    text = helm(
        "template", "demo", str(CHARTS / "run"), "-f", str(write_values("gpu", tmp_path)), "--set", setting, code=1
    )
    assert said in text


def test_a_run_is_never_upgraded(tmp_path: Path) -> None:
    """`helm upgrade` of a run ends with what to do instead."""
    assert "never upgraded" in helm(
        "template", "demo", str(CHARTS / "run"), "-f", str(write_values("gpu", tmp_path)), "--is-upgrade", code=1
    )


def test_lint() -> None:
    """`helm lint --strict` has nothing to say, with values that reach every branch."""
    helm("lint", "--strict", str(CHARTS / "run"), "-f", str(CHARTS / "run" / "lint-values.yaml"))
    helm("lint", "--strict", str(CHARTS / "platform"))


def test_generated_files_are_fresh() -> None:
    """Defaults, schema and commands in the chart are what the code generates (`python -m k8s.chart`)."""
    for path, content in generated_files().items():
        assert (chart_folder() / path).read_text(encoding="utf-8") == content, path


def test_what_render_prints_is_what_helm_takes(tmp_path: Path) -> None:
    """A rendered document composed again is the same document, byte for byte."""
    path = write_values("spot", tmp_path)
    again = run_values.to_yaml(run_values.complete(run_values.read_values(path)))
    assert again == path.read_text()
    assert NAME_PATTERN in (CHARTS / "run" / "values.schema.json").read_text().replace("\\\\", "\\")


def test_shell_scripts_parse() -> None:
    """bash accepts the scripts beside the images and for bare clusters."""
    for script in [*REPOSITORY.glob("images/*.sh"), *REPOSITORY.glob("k8s/local/*.sh")]:
        subprocess.run(["bash", "-n", str(script)], check=True)
