"""Compressed sizes of the images in an OCI layout, each layer counted once: `python images/sizes.py build/images`.

A second layout, packed from images built after a change of our code, tells what that change pushes: the blobs that the
first one lacks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LIMITS_MB = {"launcher": 90, "ingest": 170, "rm + dpo + evaluation": 450, "a change of our code": 5}
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
        for layer in manifest["layers"]:
            assert "gzip" in layer["mediaType"] or "zstd" in layer["mediaType"], f"{name}: a layer is not compressed"
        found[name] = {layer["digest"]: layer["size"] for layer in manifest["layers"]}
    return found


def together(images: dict[str, dict[str, int]], *names: str) -> int:
    """Return the bytes of images that are all on one node, each layer once."""
    union: dict[str, int] = {}
    for name in names:
        union |= images[name]
    return sum(union.values())


def pushed(before: Path, after: Path) -> int:
    """Return the bytes of the blobs in one layout that another one lacks: layers, configs and manifests."""
    there = {path.name for path in (before / "blobs" / "sha256").iterdir()}
    return sum(path.stat().st_size for path in (after / "blobs" / "sha256").iterdir() if path.name not in there)


def main(folder: str, changed: str = "") -> int:
    """Print the table of images/README.md; 1 when a limit is exceeded."""
    images = layers(Path(folder))
    sizes = {
        "launcher": together(images, "launcher"),
        "gui": together(images, "gui"),
        "ingest": together(images, "ingest"),
        "rm + dpo + evaluation": together(images, "rm", "dpo", "evaluation"),
        "fetch-model": together(images, "fetch-model"),
        "all images": together(images, *images),
    }
    if changed:
        sizes["a change of our code"] = pushed(Path(folder), Path(changed))
    print("| what | compressed | limit |\n| --- | --- | --- |")  # noqa: T201
    for name, size in sizes.items():
        limit = f"{LIMITS_MB[name]} MB" if name in LIMITS_MB else ""
        print(f"| {name} | {size / MB:.1f} MB | {limit} |")  # noqa: T201
    print("\nlayers from the base up, MB:")  # noqa: T201
    for name, chain in images.items():
        print(f"  {name}: {' + '.join(f'{size / MB:.1f}' for size in chain.values())}")  # noqa: T201
    return int(any(sizes.get(name, 0) > limit * MB for name, limit in LIMITS_MB.items()))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("Usage: python images/sizes.py LAYOUT [LAYOUT_AFTER_A_CHANGE]")
    sys.exit(main(*sys.argv[1:]))
