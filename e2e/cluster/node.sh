# One node of `up`: its network, its cgroups, its files, its processes. Sourced; runs in $STATE.
# shellcheck shell=bash disable=SC2154
# (variables of common.sh and up)

# Pods of other nodes are reached by a route for each node; there is no overlay.
make_node_space() {
    local i=$1 space=$NODE$1 other
    ip netns add "$space"
    ip -n "$space" link set lo up
    ip link add "node$i" netns "$CONTROL_PLANE" type veth peer name eth0 netns "$space"
    ip -n "$CONTROL_PLANE" link set "node$i" master nodes up
    ip -n "$space" addr add "$HOSTS.1$i/24" dev eth0
    ip -n "$space" link set eth0 up
    ip -n "$space" route add default via "$API"
    within "$space" sysctl -qw net.ipv4.ip_forward=1
    for other in $(seq "$nodes"); do
        [ "$other" = "$i" ] || ip -n "$space" route add "$PODS.$other.0/24" via "$HOSTS.1$other"
    done
    ip -n "$CONTROL_PLANE" route add "$PODS.$i.0/24" via "$HOSTS.1$i"
}

# kubelet wants its root cgroup to exist: in the one hierarchy of version 2 with its controllers handed down, in every
# hierarchy of version 1 (where an empty cpuset takes no process).
make_node_cgroups() {
    local name=$NODE$1 root=/sys/fs/cgroup hierarchy file
    if [ -f "$root/cgroup.controllers" ]; then
        mkdir -p "$root/$name"
        for hierarchy in "$root" "$root/$name"; do
            for file in cpu cpuset memory pids io hugetlb; do
                # Not every kernel has all of them, and kubelet says which it misses.
                printf '+%s' "$file" >"$hierarchy/cgroup.subtree_control" 2>/dev/null || true
            done
        done
        return
    fi
    for hierarchy in cpu cpuacct cpuset memory devices freezer blkio pids hugetlb systemd; do
        [ ! -d "$root/$hierarchy" ] || mkdir -p "$root/$hierarchy/$name"
    done
    if [ -d "$root/cpuset/$name" ]; then
        for file in cpus mems; do
            cat "$root/cpuset/cpuset.$file" >"$root/cpuset/$name/cpuset.$file"
        done
    fi
}

write_node_files() {
    local i=$1 folder=$STATE/node$1
    mkdir -p "$folder/cni" "$folder/kubelet"
    write_cni_files "$i" "$folder"
    write_containerd_files "$folder"
    write_kubelet_files "$i" "$folder"
    write_start "$i" "$folder"
}

write_cni_files() {
    cat >"$2/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$2/addresses", "ranges": [[{"subnet": "$PODS.$1.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}

# restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE starts no pod otherwise ("can't get final child's PID from
# pipe"). netns_mounts_under_state_dir keeps the machine's own folders clean.
write_containerd_files() {
    cat >"$1/containerd.toml" <<TOML
version = 2
root = "$1/containerd"
state = "$1/containerd-state"
[grpc]
  address = "$1/containerd.sock"
[ttrpc]
  address = "$1/containerd.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_tcp_service = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_PLUGINS"
    conf_dir = "$1/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
  path = "$1/opt"
TOML
}

# All nodes share one disk and one memory: what evicts pods is set low, or a machine with little to spare would have no
# usable node at all.
write_kubelet_files() {
    cat >"$2/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /$NODE$1
enforceNodeAllocatable: [pods]
failSwapOn: false
failCgroupV1: false
containerRuntimeEndpoint: unix://$2/containerd.sock
clusterDNS: [$API]
clusterDomain: cluster.local
resolvConf: ""
nodeStatusUpdateFrequency: 4s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
volumePluginDir: $2/volume-plugins
podLogsDir: $2/pod-logs
YAML
    cat >"$2/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $PODS.0.0/16
clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
hostnameOverride: node$1
YAML
}

# kubelet and containerd must share a mount namespace, or the one does not see what the other mounts; it is not the
# machine's, so that their mounts end with them.
write_start() {
    local log=$STATE/log/node$1
    cat >"$2/start" <<SH
mount --make-rprivate / && mount --make-rshared /
containerd -c $2/containerd.toml >$log-containerd.log 2>&1 &
for _ in \$(seq 100); do ctr -a $2/containerd.sock version >/dev/null 2>&1 && break; sleep 0.1; done
ctr -a $2/containerd.sock -n k8s.io images import $STATE/pause.tar >$log-import.log 2>&1
$BIN/kube-proxy --config $2/proxy.yaml >$log-proxy.log 2>&1 &
exec $BIN/kubelet --kubeconfig $STATE/node$1.kubeconfig --config $2/kubelet.yaml --root-dir $2/kubelet \\
  --cert-dir $2/pki --hostname-override node$1 --node-ip $HOSTS.1$1 \\
  --node-labels topology.kubernetes.io/zone=zone-$1 >$log-kubelet.log 2>&1
SH
}

start_node() {
    within "$NODE$1" setsid unshare -m --propagation private bash "$STATE/node$1/start" </dev/null >/dev/null 2>&1 &
}
