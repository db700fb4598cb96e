# What the scripts of this folder agree on. Sourced, not run.
# shellcheck shell=bash disable=SC2034

# Programs that were built from Go modules, kept between clusters.
BIN=${SLUICE_CLUSTER_BIN:-$HOME/.cache/sluice-cluster/bin}
# Everything of the running cluster: keys, data, logs, sockets.
STATE=${SLUICE_CLUSTER_DIR:-/tmp/sluice-e2e-cluster}
# In STATE: says that `up` made the folder and `down` may remove it.
MARK=$STATE/.sluice-cluster
KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
# Where Debian puts the CNI plug-ins.
CNI_PLUGINS=/usr/lib/cni

# Names of network namespaces and of cgroups; `down` removes what carries them and nothing else.
CONTROL_PLANE=sluice-cp
NODE=sluice-node

# Addresses, reachable in the namespaces alone: node I is HOSTS.1I and has the pods PODS.I.0/24.
HOSTS=10.201.0
PODS=10.203
SERVICES=10.202.0.0/16
API=$HOSTS.1

say() { printf '%s\n' "$*" >&2; }
die() {
    printf 'e2e/cluster/%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
need_root() { [ "$(id -u)" -eq 0 ] || die "must run as root: it makes network namespaces, cgroups and mounts"; }

# Network namespaces of a cluster that runs or that was left behind.
spaces() { ip netns list 2>/dev/null | awk '{print $1}' | grep -E "^($CONTROL_PLANE|${NODE}[0-9]+)\$" || true; }

# Says which node a script was asked for, as `2` or `node2`.
node_number() {
    local i=${1#node}
    [[ $# -eq 1 && $i =~ ^[1-9]$ ]] || die "usage: $(basename "$0") NODE, such as 2 or node2"
    [ -e "/var/run/netns/$NODE$i" ] || die "there is no node $i here: start a cluster with $here/up"
    printf '%s' "$i"
}

# Runs a command in a namespace. Not by `ip netns exec`, which hides the cgroup mounts.
within() {
    local space=$1
    shift
    nsenter --net="/var/run/netns/$space" "$@"
}

# Runs a command with the cluster's kubectl and rights.
administer() { KUBECONFIG=$STATE/admin.kubeconfig within "$CONTROL_PLANE" "$@"; }

# Waits up to $1 seconds for a command to succeed; a failure of the command says nothing.
wait_for() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.2
    done
}
