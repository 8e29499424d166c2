#!/usr/bin/env bash
# Builds the images once more, from a copy of the tree in which one line of our code differs, and tells what that pushes
# beyond the layout in build/images (`images/pack.sh build/images`). Variables: those of images/build.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f "${BASE:-}" ]; then BASE=$(realpath "$BASE"); export BASE; fi
CHANGED=build/changed
rm -rf "$CHANGED" build/after
mkdir -p "$CHANGED"
git ls-files -z | xargs -0 cp --parents -t "$CHANGED"
echo "# A change." >> "$CHANGED/jobs/cli.py"
export TAG=changed
"$CHANGED/images/build.sh"
images/pack.sh build/after
rm -rf "$CHANGED"
python3 images/sizes.py build/images build/after
