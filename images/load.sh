#!/usr/bin/env bash
# Brings built images into a cluster without a registry: a kind cluster (KIND=name) or containerd (CONTAINERD=socket).
# All of them travel in one archive, in which the layers that they share lie once, uncompressed: compressing is for
# registries, and takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${FOLDER:-build/load}
rm -rf "$FOLDER" "$FOLDER.tar"
PACK_FLAGS=--disable-compression images/pack.sh "$FOLDER" "$@"
tar -cf "$FOLDER.tar" -C "$FOLDER" .
rm -rf "$FOLDER"
if [ -n "${KIND:-}" ]; then
  kind load image-archive "$FOLDER.tar" --name "$KIND"
else
  ctr -a "${CONTAINERD:-/run/containerd/containerd.sock}" -n k8s.io images import "$FOLDER.tar" > /dev/null
fi
rm -f "$FOLDER.tar"
echo "loaded ${*:-all images}"
