#!/usr/bin/env bash
# A second node for the cluster of bare.sh, on the same machine: `second-node.sh up [IMAGE...]`, `second-node.sh down`.
#
# With a containerd, folders and control groups of its own, it can be stopped as a machine that is lost would, while the
# first node goes on. It shares the first one's network. IMAGEs are copied from the first node.
set -euo pipefail
KBIN=${KBIN:-/usr/local/kubebuilder/bin}
STATE=${STATE:-/var/tmp/bare-kubernetes}
NODE=${NODE2:-node-2}
ADDRESS=10.99.0.1
HERE=$STATE/$NODE
SOCKET=$HERE/containerd.sock
export PATH=$KBIN:$PATH KUBECONFIG=$STATE/admin.kubeconfig

start() {  # start NAME COMMAND...: in the background, unless it runs already
  local name=$1; shift
  if [ -f "$HERE/$name.pid" ] && kill -0 "$(cat "$HERE/$name.pid")" 2>/dev/null; then return; fi
  setsid "$@" >> "$HERE/$name.log" 2>&1 < /dev/null &
  echo $! > "$HERE/$name.pid"
}

stop() {
  [ -f "$HERE/$1.pid" ] || return 0
  kill "$(cat "$HERE/$1.pid")" 2>/dev/null || true
  for _ in $(seq 40); do kill -0 "$(cat "$HERE/$1.pid")" 2>/dev/null || break; sleep 0.25; done
  kill -9 "$(cat "$HERE/$1.pid")" 2>/dev/null || true
  rm -f "$HERE/$1.pid"
}

await() {  # await SECONDS COMMAND...
  for _ in $(seq "$(($1 * 2))"); do "${@:2}" >/dev/null 2>&1 && return; sleep 0.5; done
  echo "Error: waited $1 s in vain for: ${*:2}; see $HERE/*.log" >&2
  return 1
}

up() {
  mkdir -p "$HERE"
  # A kubelet ends what it finds in its control groups and does not know: each has a tree of its own.
  local group
  for group in /sys/fs/cgroup/*/; do
    [ -e "$group/cgroup.procs" ] && mkdir -p "$group$NODE"
  done
  if [ -d /sys/fs/cgroup/cpuset ]; then
    cat /sys/fs/cgroup/cpuset/cpuset.cpus > "/sys/fs/cgroup/cpuset/$NODE/cpuset.cpus"
    cat /sys/fs/cgroup/cpuset/cpuset.mems > "/sys/fs/cgroup/cpuset/$NODE/cpuset.mems"
  fi
  sed "s|$STATE/containerd/containerd.sock|$SOCKET|; s|$STATE/containerd/|$HERE/|" "$STATE/containerd.toml" > "$HERE/containerd.toml"
  { sed "s|$STATE/containerd/containerd.sock|$SOCKET|; s|$STATE/podlogs|$HERE/podlogs|" "$STATE/kubelet.yaml"
    printf 'cgroupRoot: /%s\nport: 10260\nhealthzPort: 10258\n' "$NODE"
    # Only pods that ask for it come here.
    printf 'registerWithTaints: [{key: aios-alignment/second, effect: NoSchedule}]\n'; } > "$HERE/kubelet.yaml"
  start containerd containerd --config "$HERE/containerd.toml"
  await 20 ctr -a "$SOCKET" version
  for image in localhost/pause:1 "$@"; do
    ctr -a "$SOCKET" -n k8s.io images ls -q | grep -qx "$image" && continue
    # Through a file: through a pipe `ctr` was seen to end before its last block.
    ctr -a "$STATE/containerd/containerd.sock" -n k8s.io images export "$HERE/image.tar" "$image" >/dev/null
    ctr -a "$SOCKET" -n k8s.io images import "$HERE/image.tar" >/dev/null
    rm -f "$HERE/image.tar"
  done
  start kubelet kubelet --config="$HERE/kubelet.yaml" --kubeconfig="$KUBECONFIG" --root-dir="$HERE/kubelet" \
    --hostname-override="$NODE" --node-ip=$ADDRESS
  await 60 sh -c "kubectl get node $NODE | grep -q ' Ready'"
  kubectl get node "$NODE"
}

down() {
  kubectl delete node "$NODE" --ignore-not-found >/dev/null 2>&1 || true
  stop kubelet
  for task in $(ctr -a "$SOCKET" -n k8s.io tasks ls -q 2>/dev/null); do
    ctr -a "$SOCKET" -n k8s.io tasks rm -f "$task" >/dev/null 2>&1 || true
  done
  stop containerd
  awk -v folder="$HERE/" 'index($2, folder) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
  rm -rf "$HERE"
}

case ${1:-} in
  up) shift; up "$@" ;;
  down) down ;;
  *) echo "Usage: $0 up [IMAGE...]|down" >&2; exit 2 ;;
esac
