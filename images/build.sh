#!/usr/bin/env bash
# Builds the images with buildah, without a Docker daemon: `images/build.sh [IMAGE...]`.
#   BASE          base image, or a .tar of a root file system (debootstrap --variant=minbase, with python3)
#   BUILD_BASE    where pip runs, if not in BASE
#   TORCH, TORCH_LINKS   see Containerfile
#   BUILD_FLAGS   more flags for buildah, such as volumes with certificates or wheels
#   TAG           default 0.1.0-cpu
set -euo pipefail
cd "$(dirname "$0")/.."
BASE=${BASE:-docker.io/library/python:3.11-slim-bookworm}
REGISTRY=${REGISTRY:-localhost/aios-alignment}
TAG=${TAG:-0.1.0-cpu}
IMAGES=${*:-launcher gui ingest rm dpo evaluation fetch-model}
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}

if [ -f "$BASE" ]; then
  # Named by its content and what is done to it: made once, so that the layers on top stay those that were pushed before.
  archive=$BASE
  BASE=localhost/aios-base:$( (cat "$archive"; sed -n '/^if .*archive:-/,/^fi/p' images/build.sh) | sha256sum | cut -c1-12)
fi
if [ -n "${archive:-}" ] && ! buildah inspect --type image "$BASE" >/dev/null 2>&1; then
  container=$(buildah from scratch)
  buildah add -q "$container" "$archive" /
  # Translations, manuals, documents (licences stay) and what debootstrap downloaded: 60 MB compressed that no container reads.
  root=$(buildah mount "$container")
  rm -rf "$root"/usr/share/locale/* "$root"/usr/share/man/* "$root"/var/cache/debconf/*-old "$root"/var/lib/apt/lists/* \
    "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  buildah umount "$container" >/dev/null
  buildah config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$container"
  buildah commit -q --rm "$container" "$BASE" >/dev/null
fi

build() {  # build TARGET TAG [FLAG...]
  local target=$1 tag=$2; shift 2
  # shellcheck disable=SC2086
  buildah build --layers --format oci --target "$target" --file images/Containerfile --tag "$tag" \
    --build-arg BASE="$BASE" --build-arg BUILD_BASE="${BUILD_BASE:-$BASE}" ${TORCH:+--build-arg TORCH="$TORCH"} ${TORCH_LINKS:+--build-arg TORCH_LINKS="$TORCH_LINKS"} \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" "$@" ${BUILD_FLAGS:-} .
}

# The layers of packages, named by what they are made from: built once, whatever happens to our code.
stage() { awk -v name="$1" '/^FROM /{on = $NF == name} on' images/Containerfile; }
recipe() {  # recipe LAYER: everything that decides what is in it, the layers below included
  case $1 in
    base) stage build; stage layer-base; echo "$BASE ${BUILD_BASE:-}"; return ;;
    launcher) recipe base ;;
    train) recipe data; echo "${TORCH:-}" ;;
    gui) recipe launcher; cat k8s/tools.py ;;
    *) recipe launcher ;;
  esac
  stage "build-$1"; stage "layer-$1"; cat "images/locks/$1.txt"
}
layers=()
for layer in launcher gui data train; do
  tag=$REGISTRY/layer-$layer:$(recipe "$layer" | sha256sum | cut -c1-12)
  buildah inspect --type image "$tag" >/dev/null 2>&1 || build "layer-$layer" "$tag"
  layers+=(--build-arg "LAYER_${layer^^}=$tag")
done
case " $IMAGES " in *" rm "*|*" dpo "*|*" evaluation "*) build train "$REGISTRY/train:$TAG" "${layers[@]}" ;; esac
for image in $IMAGES; do
  build "$image" "$REGISTRY/$image:$TAG" "${layers[@]}" --build-arg TRAIN="$REGISTRY/train:$TAG"
done
