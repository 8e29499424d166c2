#!/usr/bin/env bash
# Writes a software bill of materials (CycloneDX, JSON) for the Python packages of each image: `images/sbom.sh FOLDER`.
# From the locks that the images are installed from, hashes included. Needs `cyclonedx-py` on PATH (pip: cyclonedx-bom).
# The base image brings its own: `syft BASE` or the distribution's package list says what is in it.
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${1:-build/sbom}
TORCH=${TORCH:-$(sed -n 's/^ARG TORCH=//p' images/Containerfile)}
mkdir -p "$FOLDER"

bill() {  # bill IMAGE LOCK...
  local image=$1; shift
  {
    for lock in "$@"; do cat "images/locks/$lock.txt"; done
    case " $* " in *" train "*) echo "$TORCH" ;; esac
  } | cyclonedx-py requirements - --of JSON -o "$FOLDER/$image.cdx.json"
  echo "$FOLDER/$image.cdx.json: $(grep -c '"purl": "pkg:pypi' "$FOLDER/$image.cdx.json") packages"
}

bill launcher launcher
bill gui launcher gui
bill ingest launcher data
for image in rm dpo evaluation; do bill "$image" launcher data train; done
bill fetch-model launcher data train model
