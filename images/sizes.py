"""Compressed sizes of the images in an OCI layout, shared layers once: `python images/sizes.py build/images`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LIMITS_MB = {"launcher": 90, "ingest": 170, "rm+dpo+evaluation": 450, "code": 5}
MB = 1_000_000


def blob(layout: Path, digest: str) -> dict[str, Any]:
    """Return a JSON blob."""
    document: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
    return document


def layers(layout: Path) -> dict[str, dict[str, int]]:
    """Return image name -> layer digest -> compressed bytes."""
    found = {}
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if "annotations" not in entry:
            continue  # an older image whose name has passed to a newer one
        name = entry["annotations"]["org.opencontainers.image.ref.name"].rsplit("/", 1)[-1].split(":")[0]
        manifest = blob(layout, entry["digest"])
        found[name] = {layer["digest"]: layer["size"] for layer in manifest["layers"]}
    return found


def main(folder: str) -> int:
    """Print the table of images/README.md; 1 when a limit is exceeded."""
    images = layers(Path(folder))
    training: dict[str, int] = {}
    for name in ("rm", "dpo", "evaluation"):
        training |= images.get(name, {})
    sizes = {name: sum(images[name].values()) for name in ("launcher", "ingest") if name in images}
    sizes["rm+dpo+evaluation"] = sum(training.values())
    sizes["code"] = max(list(image.values())[-1] for image in images.values())
    print("| what | compressed | limit |\n| --- | --- | --- |")  # noqa: T201
    for name, size in sizes.items():
        print(f"| {name} | {size / MB:.1f} MB | {LIMITS_MB[name]} MB |")  # noqa: T201
    return int(any(size > LIMITS_MB[name] * MB for name, size in sizes.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
