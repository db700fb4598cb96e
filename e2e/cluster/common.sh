# What the scripts of this folder agree on. Sourced, not run.
# shellcheck shell=bash disable=SC2034

# Programs that were built from Go modules, kept between clusters.
BIN=${SLUICE_CLUSTER_BIN:-$HOME/.cache/sluice-cluster/bin}
# Everything of the running cluster: keys, data, logs, sockets.
STATE=${SLUICE_CLUSTER_DIR:-/tmp/sluice-cluster}
KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
# Where Debian puts the CNI plug-ins.
CNI_PLUGINS=/usr/lib/cni

# Names of network namespaces and of cgroups; `down` removes what carries them and nothing else.
CONTROL_PLANE=sluice-cp
NODE=sluice-node

say() { printf '%s\n' "$*" >&2; }
die() {
    printf 'e2e/cluster/%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
need_root() { [ "$(id -u)" -eq 0 ] || die "must run as root: it makes network namespaces, cgroups and mounts"; }

# Network namespaces of a cluster that runs or that was left behind.
spaces() { ip netns list 2>/dev/null | awk '{print $1}' | grep -E "^($CONTROL_PLANE|$NODE[0-9]+)\$" || true; }
