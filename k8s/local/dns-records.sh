#!/usr/bin/env bash
# Keeps DNS records of pods that have a hostname and a subdomain (headless Services) in $1/hosts, which dnsmasq watches.
cd "$1" || exit 1
export KUBECONFIG=$1/admin.kubeconfig
FIELDS='{range .items[?(@.status.podIP)]}{.status.podIP} {.spec.hostname} {.spec.subdomain} {.metadata.namespace} {.status.phase}{"\n"}{end}'
while sleep 1; do
  kubectl get pods -A -o jsonpath="$FIELDS" 2>/dev/null |
    awk 'NF == 5 && $5 == "Running" {
           print $1, $2 "." $3 "." $4 ".svc.cluster.local"
           print $1, $3 "." $4 ".svc.cluster.local" }' | sort -u > pods.new
  cmp -s pods.new hosts/pods 2>/dev/null || cp pods.new hosts/pods
done
