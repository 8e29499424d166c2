#!/usr/bin/env bash
# From an empty cluster to the verdict on the sample, on whatever KUBECONFIG points at: `make cluster-demo`.
#   NAMESPACE   where, made if it is not there (default aios-demo)
#   PROFILE     default kind-cpu: CPU images that are loaded or pullable
#   PLATFORM    more flags for the platform chart, such as --set workspace.storageClassName=nfs, or, for one node,
#               --set workspace.hostPath=/srv/aios, a folder that uid 10001 may write (install -d -o 10001 /srv/aios)
#   SETTINGS    more flags for the run, such as --set image.registry=registry.example/aios
#   RUN         its name (default demo)
# Run it again and it goes on: what is there stays, what is finished is skipped.
# shellcheck disable=SC2086  # flags in variables are meant to be split
set -euo pipefail
cd "$(dirname "$0")/../.."
NAMESPACE=${NAMESPACE:-aios-demo}
PROFILE=${PROFILE:-kind-cpu}
RUN=${RUN:-demo}
AIOS=${AIOS:-.venv/bin/aios}
SAMPLE=training_data/sample/argilla_export.jsonl

kubectl get namespace "$NAMESPACE" >/dev/null 2>&1 || kubectl create namespace "$NAMESPACE"
kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=restricted --overwrite
helm status platform -n "$NAMESPACE" >/dev/null 2>&1 ||
  helm install platform charts/platform -n "$NAMESPACE" ${PLATFORM:-}

# One document says all: which images, which claim, which settings.
mkdir -p build/demo
$AIOS jobs render --profile "$PROFILE" --values config/demo.yaml ${SETTINGS:-} --name "$RUN" > build/demo/values.yaml
where=(-n "$NAMESPACE" --profile build/demo/values.yaml)
$AIOS jobs doctor "${where[@]}"
$AIOS jobs upload "$SAMPLE" "$SAMPLE" "${where[@]}"
$AIOS jobs submit "${where[@]}" --name "$RUN" --follow

for folder in dpo rm evaluation; do
  $AIOS jobs download "artifacts/$folder/$RUN" "build/demo/$folder/$RUN" "${where[@]}"
done
cat "build/demo/evaluation/$RUN/report.md"
