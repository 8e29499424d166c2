#!/usr/bin/env bash
# Writes built images into one OCI layout, shared layers once: `images/pack.sh FOLDER [IMAGE...]`.
#   PACK_FLAGS   more flags for `buildah push`; --disable-compression where speed matters more than size
set -euo pipefail
FOLDER=${1:?folder for the OCI layout}; shift
REGISTRY=${REGISTRY:-localhost/aios-alignment}
TAG=${TAG:-0.1.0-cpu}
mkdir -p "$FOLDER"
for image in ${*:-launcher gui ingest rm dpo evaluation fetch-model}; do
  # shellcheck disable=SC2086
  buildah push -q ${PACK_FLAGS:-} "$REGISTRY/$image:$TAG" "oci:$FOLDER:$REGISTRY/$image:$TAG"
done
