#!/usr/bin/env bash
# Brings built images into a cluster without a registry: a kind cluster (KIND=name) or containerd (CONTAINERD=socket).
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${FOLDER:-build/images}
REGISTRY=${REGISTRY:-localhost/aios-alignment}
TAG=${TAG:-0.1.0-cpu}
mkdir -p "$FOLDER"
for image in ${*:-launcher ingest rm dpo evaluation fetch-model}; do
  # docker-archive keeps layers as they are; compressing is for registries, and takes minutes.
  archive=$FOLDER/$image.tar
  rm -f "$archive"
  buildah push -q "$REGISTRY/$image:$TAG" "docker-archive:$archive:$REGISTRY/$image:$TAG"
  if [ -n "${KIND:-}" ]; then
    kind load image-archive "$archive" --name "$KIND"
  else
    ctr -a "${CONTAINERD:-/run/containerd/containerd.sock}" -n k8s.io images import "$archive" > /dev/null
  fi
  rm -f "$archive"
  echo "loaded $image:$TAG"
done
