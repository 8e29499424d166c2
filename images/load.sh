#!/usr/bin/env bash
# Brings built images into a cluster without a registry: a kind cluster (KIND=name) or containerd (CONTAINERD=socket).
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${FOLDER:-build/images}
# Compressing is for registries; a node on the same machine takes layers as they are.
PACK_FLAGS=-D images/pack.sh "$FOLDER" "$@"
if [ -n "${KIND:-}" ]; then
  tar -C "$FOLDER" -cf build/images.tar . && kind load image-archive build/images.tar --name "$KIND"
else
  tar -C "$FOLDER" -cf - . | ctr -a "${CONTAINERD:-/run/containerd/containerd.sock}" -n k8s.io images import --no-unpack=false -
fi
