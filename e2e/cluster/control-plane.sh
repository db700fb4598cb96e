# The control plane of `up`: etcd, API server, controllers, scheduler, DNS. Sourced; runs in $STATE.
# shellcheck shell=bash disable=SC2154
# (variables of common.sh and up)

# Static tokens: short, and only root on this machine gets to the namespace where they count. Every node is a user of its
# own, so that the node authorizer is in force as on any cluster.
make_credentials() {
    local user
    openssl genrsa -out service-accounts.key 2048 2>/dev/null
    {
        printf 'admin,admin,1,"system:masters"\n'
        printf 'controllers,system:kube-controller-manager,2\n'
        printf 'scheduler,system:kube-scheduler,3\n'
        printf 'proxy,system:kube-proxy,4\n'
        printf 'dns,dns,5,"system:masters"\n'
        for user in $(node_names); do printf '%s,system:node:%s,1%s,"system:nodes"\n' "$user" "$user" "$user"; done
    } >tokens.csv
    for user in admin controllers scheduler proxy dns $(node_names); do write_kubeconfig "$user"; done
}

node_names() { [ "$nodes" -eq 0 ] || seq -f node%g "$nodes"; }

# The API server makes its certificate itself at its first start; the file holds the authority too.
write_kubeconfig() {
    cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: sluice, cluster: {server: "https://$API:6443", certificate-authority: $STATE/pki/apiserver.crt}}]
users: [{name: $1, user: {token: $1}}]
contexts: [{name: sluice, context: {cluster: sluice, user: $1}}]
current-context: sluice
YAML
}

# A bridge in the control plane's namespace joins the nodes.
make_control_plane_space() {
    ip netns add "$CONTROL_PLANE"
    ip -n "$CONTROL_PLANE" link set lo up
    ip -n "$CONTROL_PLANE" link add nodes type bridge
    ip -n "$CONTROL_PLANE" addr add "$API/24" dev nodes
    ip -n "$CONTROL_PLANE" link set nodes up
    within "$CONTROL_PLANE" sysctl -qw net.ipv4.ip_forward=1
}

# Starts a program of the control plane; it outlives this script. $1 names its log.
start() {
    local log=log/$1.log
    shift
    within "$CONTROL_PLANE" setsid "$@" >"$log" 2>&1 </dev/null &
}

start_api_server() {
    start etcd "$BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    # kubelets have no names in DNS: logs and exec must go to their addresses.
    start apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --cert-dir "$STATE/pki" \
        --bind-address 0.0.0.0 --secure-port 6443 --advertise-address "$API" --service-cluster-ip-range "$SERVICES" \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file service-accounts.key --service-account-signing-key-file service-accounts.key \
        --token-auth-file tokens.csv --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --allow-privileged=true --kubelet-preferred-address-types InternalIP
}

# Without nodes there is no kubelet to renew a lease: the node-lifecycle controller would taint every Node object that a
# test makes. A node that stops counts as lost after 20 s instead of 50, as tests wait for it. So they do for the garbage
# collector, which falls minutes behind with the usual 20 requests a second.
start_controllers() {
    local controllers='*'
    [ "$nodes" -gt 0 ] || controllers='*,-node-lifecycle-controller'
    start controllers "$BIN/kube-controller-manager" --kubeconfig controllers.kubeconfig --leader-elect=false \
        --use-service-account-credentials --service-account-private-key-file service-accounts.key \
        --root-ca-file pki/apiserver.crt --allocate-node-cidrs=true --cluster-cidr "$PODS.0.0/16" \
        --node-monitor-grace-period=20s --kube-api-qps=100 --kube-api-burst=200 --controllers="$controllers"
    start scheduler "$BIN/kube-scheduler" --kubeconfig scheduler.kubeconfig --leader-elect=false
}

# Beside the cluster rather than in it: it needs no image, and pods reach it by the node's route.
start_dns() {
    cat >Corefile <<CONF
.:53 {
  bind $API
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $STATE/dns.kubeconfig
    pods insecure
    ttl 2
  }
  cache 2
}
CONF
    start dns "$BIN/coredns" -conf Corefile
}
