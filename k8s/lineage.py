"""Where a result comes from: export -> data -> reward model and policy -> report, each link checked against the disk.

`run.json` holds what each step read and made, by hash; the manifests on the volume say what stands there now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.contract.attempts import attempt_numbers, read_status
from jobs.contract.errors import AiosError
from jobs.contract.manifest import Manifest, read_manifest, verify

SEED_KEYS = ("seed", "shuffle_seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One thing a step read: its name there, its hash, and what on this volume has that hash."""

    name: str
    sha256: str
    origin: str | None
    """A step of the run or a folder; None where nothing here has this hash (an export, a model of the hub)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One step of a run: what it made, from what, and whether that still stands."""

    step: str
    output: str
    sha256: str
    problem: str
    """Why what is on disk is not what this run made; empty when it is."""
    sources: list[Source]
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)


def links(document: Mapping[str, Any], root: Path = Path()) -> list[Link]:
    """Return the links of a run, in the order of its steps; `document` is run.json, `root` the workspace."""
    recorded: dict[str, dict[str, Any]] = dict(document.get("lineage") or {}) or _of_attempts(document, root)
    made_by = {entry["content_sha256"]: step for step, entry in recorded.items() if entry.get("content_sha256")}
    isolated = ((document.get("values") or {}).get("workspace") or {}).get("isolation") == "run"
    # An isolated run lies in isolated/RUN of the claim, and what runs share in the claim itself.
    roots = [root, root / ".." / ".."] if isolated else [root]
    models = {digest: folder for place in roots for digest, folder in _folders(place / "artifacts" / "base").items()}
    order: list[str] = [step for step in ("ingest", "rm", "dpo", "evaluation") if step in recorded]
    order += [step for step in recorded if step not in order]
    return [_link(step, recorded[step], made_by, models, roots) for step in order]


def _of_attempts(document: Mapping[str, Any], root: Path) -> dict[str, dict[str, Any]]:
    """Return what the newest attempt of each step that made something recorded; in a cluster nobody gathers it."""
    recorded: dict[str, dict[str, Any]] = {}
    for folder in sorted((root / "artifacts" / "runs" / str(document.get("name")) / "steps").glob("*")):
        for number in attempt_numbers(folder):
            made = read_status(folder / f"attempt-{number}").get("lineage")
            recorded |= {folder.name: made} if made else {}
    return recorded


def _link(step: str, entry: dict[str, Any], made_by: dict[str, str], models: dict[str, str], roots: list[Path]) -> Link:
    folder = next(
        (root / entry["output"] for root in roots if (root / entry["output"]).exists()), Path(entry["output"])
    )
    manifest = _manifest(folder)
    return Link(
        step=step,
        output=entry["output"],
        sha256=entry.get("content_sha256") or "",
        problem=_problem(folder, manifest, entry),
        sources=[
            Source(name=name, sha256=digest, origin=made_by.get(digest) or models.get(digest))
            for name, digest in sorted((entry.get("inputs") or {}).items())
        ],
        seed=next((manifest.config[key] for key in SEED_KEYS if manifest and key in manifest.config), None),
        versions=manifest.versions if manifest else {},
    )


def _problem(folder: Path, manifest: Manifest | None, entry: dict[str, Any]) -> str:
    """Compare what the run recorded with what stands on disk, file by file."""
    if manifest is None:
        return "nothing published stands there any more"
    if manifest.content_sha256 != entry.get("content_sha256"):
        return f"made anew since, by attempt {manifest.attempt}"
    if manifest.inputs != entry.get("inputs", manifest.inputs):
        return "the manifest names other inputs"
    try:
        verify(folder)
    except (AiosError, OSError) as exc:
        return str(exc).split(";")[0]
    return ""


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except AiosError:
        return None


def _folders(parent: Path) -> dict[str, str]:
    """Return content hash -> folder of the base models on this volume."""
    found = {}
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        manifest = _manifest(folder)
        if manifest is not None:
            found[manifest.content_sha256] = folder.as_posix()
    return found


def tree(document: Mapping[str, Any], found: list[Link]) -> str:
    """Draw the lineage: each step under the run, each source under its step."""
    lines = [f"{document.get('name')}  profile {document.get('profile')}{_code(document)}"]
    for i, link in enumerate(found):
        last = i == len(found) - 1
        seed = "" if link.seed is None else f"  seed {link.seed}"
        mark = "✔" if not link.problem else "✘"
        lines.append(f"{'└' if last else '├'}─ {mark} {link.step}  {link.output}  {link.sha256[:12]}{seed}")
        stem = "   " if last else "│  "
        if link.problem:
            lines.append(f"{stem}     {link.problem}")
        for k, source in enumerate(link.sources):
            branch = "└" if k == len(link.sources) - 1 else "├"
            lines.append(f"{stem}  {branch}─ {source.name}  {source.sha256[:12]}  {_origin(source)}")
    return "\n".join(lines)


def _code(document: Mapping[str, Any]) -> str:
    """Say which code ran: the commit, and in a cluster the images."""
    git, values = document.get("git") or {}, document.get("values") or {}
    image, text = values.get("image") or {}, ""
    if git.get("commit"):
        text = f", commit {str(git['commit'])[:12]}{' and changes' if git.get('dirty') else ''}"
    if values.get("backend") != "local" and image.get("tag"):
        text += f", images {image.get('registry')}:{image['tag']}"
    return text


def _origin(source: Source) -> str:
    if source.origin is not None:
        return f"from {source.origin}"
    return "the export" if source.name.startswith("export") else "not on this volume"
