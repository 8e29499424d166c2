#!/usr/bin/env bash
# A real one-node Kubernetes without Docker, from binaries: `bare.sh up`, `bare.sh down`, `bare.sh clean`, `bare.sh env`.
#
# Linux, as root. Needs in $KBIN the Kubernetes server binaries (kube-apiserver, kube-controller-manager, kube-scheduler,
# kubelet, or one hyperkube that acts by its name) and containerd 2.x; on PATH kubectl, etcd, runc, buildah, gcc,
# iptables, dnsmasq, and CNI plugins in /usr/lib/cni. Nothing is downloaded. The state is under $STATE.
# Its bridge network does not enforce NetworkPolicy; that needs kind.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KBIN=${KBIN:-/usr/local/kubebuilder/bin}
STATE=${STATE:-/var/tmp/bare-kubernetes}
NODE=${NODE:-node-1}
ADDRESS=10.99.0.1        # of a bridge of our own, so that the machine's network does not matter
SERVICES=10.96.0.0/16
PODS=10.244.0.0/24
SOCKET=$STATE/containerd/containerd.sock
export PATH=$KBIN:$PATH KUBECONFIG=$STATE/admin.kubeconfig

start() {  # start NAME COMMAND...: in the background, logging to log/NAME.log, unless it runs already
  local name=$1; shift
  if [ -f "$name.pid" ] && kill -0 "$(cat "$name.pid")" 2>/dev/null; then return; fi
  setsid "$@" > "log/$name.log" 2>&1 < /dev/null &
  echo $! > "$name.pid"
}

stop() {  # stop NAME: politely, then not
  [ -f "$1.pid" ] || return 0
  local pid; pid=$(cat "$1.pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 40); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$1.pid"
}

await() {  # await SECONDS COMMAND...
  local seconds=$1; shift
  for _ in $(seq "$((seconds * 2))"); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done
  echo "Error: waited $seconds s in vain for: $*; see $STATE/log" >&2
  return 1
}

check() {
  [ "$(id -u)" = 0 ] || { echo "Error: a kubelet needs root; run this with sudo" >&2; exit 78; }
  local missing=()
  for tool in kubectl etcd runc buildah gcc iptables dnsmasq containerd openssl; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  for binary in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
    if [ -e "$KBIN/hyperkube" ] && [ ! -e "$KBIN/$binary" ]; then ln -s hyperkube "$KBIN/$binary"; fi
    [ -e "$KBIN/$binary" ] || missing+=("$KBIN/$binary")
  done
  [ -e /usr/lib/cni/bridge ] || missing+=("/usr/lib/cni/bridge")
  if [ ${#missing[@]} -gt 0 ]; then
    echo "Error: not found: ${missing[*]}; on Debian: apt install etcd-server runc containernetworking-plugins iptables" \
      "buildah dnsmasq-base gcc; Kubernetes and containerd binaries go to $KBIN" >&2
    exit 78
  fi
}

write_configuration() {
  cat > containerd.toml <<EOT
version = 3
root = "$STATE/containerd/root"
state = "$STATE/containerd/state"
[grpc]
  address = "$SOCKET"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  # Where a shell may not lower oom_score_adj, runc dies with "can't get final child's PID from pipe" without this.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$STATE/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "$(command -v runc)"
EOT
  cat > cni/10-bridge.conflist <<EOT
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOT
  cat > admin.kubeconfig <<EOT
apiVersion: v1
kind: Config
clusters: [{name: bare, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: "$(cat pki/admin.token)"}}]
contexts: [{name: bare, context: {cluster: bare, user: admin}}]
current-context: bare
EOT
  cat > kubelet.yaml <<EOT
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$SOCKET
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
clusterDomain: cluster.local
clusterDNS: ["$ADDRESS"]
podLogsDir: $STATE/podlogs
shutdownGracePeriod: 0s
EOT
}

sandbox_image() {  # every pod needs one, and no registry serves it here
  ctr -a "$SOCKET" -n k8s.io images ls -q 2>/dev/null | grep -qx localhost/pause:1 && return
  await 15 test -S "$SOCKET"
  gcc -static -O2 -o pause "$HERE/pause.c"
  local container; container=$(BUILDAH_ISOLATION=chroot buildah from scratch)
  buildah copy -q "$container" pause /pause >/dev/null
  buildah config --entrypoint '["/pause"]' "$container"
  buildah commit -q --rm "$container" localhost/pause:1 >/dev/null
  rm -f pause.tar
  buildah push -q localhost/pause:1 "oci-archive:$STATE/pause.tar:localhost/pause:1"
  ctr -a "$SOCKET" -n k8s.io images import pause.tar >/dev/null
}

up() {
  check
  mkdir -p "$STATE"/{etcd,pki,log,kubelet,containerd,cni,hosts}
  cd "$STATE"
  [ -f pki/sa.key ] || { openssl genrsa -out pki/sa.key 2048; openssl rsa -in pki/sa.key -pubout -out pki/sa.pub; } 2>/dev/null
  [ -f pki/admin.token ] || (umask 077; openssl rand -hex 24 > pki/admin.token)
  (umask 077; echo "$(cat pki/admin.token),admin,admin,\"system:masters\"" > pki/tokens.csv)
  write_configuration
  modprobe br_netfilter 2>/dev/null || true
  sysctl -qw net.ipv4.ip_forward=1
  ip link show kube0 >/dev/null 2>&1 ||
    { ip link add kube0 type bridge; ip addr add $ADDRESS/32 dev kube0; ip link set kube0 up; }

  start etcd etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --unsafe-no-fsync=true \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  start containerd containerd --config containerd.toml
  start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=$SERVICES \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.pub \
    --service-account-signing-key-file=pki/sa.key --secure-port=6443 --advertise-address=$ADDRESS \
    --cert-dir=pki/apiserver --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC --allow-privileged=true \
    --kubelet-preferred-address-types=InternalIP
  sandbox_image
  await 60 kubectl get --raw /readyz
  start kube-controller-manager kube-controller-manager --kubeconfig=admin.kubeconfig --leader-elect=false \
    --service-account-private-key-file=pki/sa.key --use-service-account-credentials=true \
    --root-ca-file=pki/apiserver/apiserver.crt
  start kube-scheduler kube-scheduler --kubeconfig=admin.kubeconfig --leader-elect=false
  echo "10.96.0.1 kubernetes.default.svc.cluster.local" > hosts/static
  start dnsmasq dnsmasq --keep-in-foreground --no-resolv --no-hosts --hostsdir="$STATE/hosts" --listen-address=$ADDRESS \
    --bind-interfaces --local=/cluster.local/ --log-facility=-
  start dns-records "$HERE/dns-records.sh" "$STATE"
  start kubelet kubelet --config=kubelet.yaml --kubeconfig=admin.kubeconfig --root-dir="$STATE/kubelet" \
    --hostname-override="$NODE" --node-ip=$ADDRESS
  # Without kube-proxy one rule stands for the one ClusterIP that pods need: the API server's.
  for chain in OUTPUT PREROUTING; do
    iptables -t nat -C $chain -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination $ADDRESS:6443 2>/dev/null ||
      iptables -t nat -A $chain -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination $ADDRESS:6443
  done
  await 60 sh -c "kubectl get node $NODE | grep -q ' Ready'"
  kubectl get nodes
  echo "export KUBECONFIG=$KUBECONFIG CONTAINERD=$SOCKET"
}

down() {  # ends what `up` started, pods included; the state stays
  cd "$STATE" 2>/dev/null || return 0
  stop kubelet
  for task in $(ctr -a "$SOCKET" -n k8s.io tasks ls -q 2>/dev/null); do
    ctr -a "$SOCKET" -n k8s.io tasks rm -f "$task" >/dev/null 2>&1 || true
  done
  for name in dns-records dnsmasq kube-scheduler kube-controller-manager kube-apiserver containerd etcd; do stop $name; done
  awk -v folder="$STATE/" 'index($2, folder) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
}

clean() {  # nothing of it stays: pods by the kubelet, which also takes their network down, then the rest
  kubectl delete pods --all -A --grace-period=1 --timeout=60s >/dev/null 2>&1 || true
  down
  for chain in OUTPUT PREROUTING; do
    iptables -t nat -D $chain -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination $ADDRESS:6443 2>/dev/null || true
  done
  for bridge in kube0 cni0; do ip link delete "$bridge" 2>/dev/null || true; done
  rm -rf /var/lib/cni/networks/pods
  rm -rf --one-file-system "$STATE"
}

case ${1:-} in
  up) up ;;
  down) down ;;
  clean) clean ;;
  env) echo "export KUBECONFIG=$KUBECONFIG CONTAINERD=$SOCKET" ;;
  *) echo "Usage: $0 up|down|clean|env" >&2; exit 2 ;;
esac
