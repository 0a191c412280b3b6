#!/usr/bin/env bash
# node.sh N NODES: process 1 of node N, in namespaces of its own (mounts, processes, host name, network).
#
# Runs the node's daemons, and on node 1 the control plane and CoreDNS as plain processes. When it is killed the kernel ends
# every daemon, shim and pod of the node and drops its mounts, links and rules. It writes nowhere but under $CLUSTER_STATE,
# and its network has no default route: nothing here reaches beyond the cluster and this machine.
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$here/control-plane.sh"
n=$1 nodes=$2
address=$NODE_NET.1$n home=$CLUSTER_STATE/node$1 pki=$CLUSTER_STATE/pki
kube=$CLUSTER_CACHE/bin/kube

main() {
    hostname "node$n"
    mkdir -p "$home"/{lib/kubelet,lib/containerd,lib/cni,log/pods,log/containers,cni,cgroups}
    own_mounts
    own_network
    if [ "$n" = 1 ]; then etcd_and_api_server "$address" 127.0.0.1; fi
    container_runtime
    until curl -sf --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "$API/readyz" > /dev/null; do sleep 0.1; done
    if [ "$n" = 1 ]; then controllers_and_names; fi
    kubelet
    wait
}

run() { # NAME COMMAND...
    "${@:2}" >> "$CLUSTER_STATE/log/node$n-$1.log" 2>&1 &
}

own_mounts() {
    # The /sys of this network namespace hides the control groups, so they are carried over. Before anything is shared:
    # a lazy umount of a shared mount would take them along.
    mount --rbind /sys/fs/cgroup "$home/cgroups"
    mount -t sysfs sysfs /sys
    mount --rbind "$home/cgroups" /sys/fs/cgroup
    umount -l "$home/cgroups"
    mount --make-rshared /
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/lock
    mount --bind "$home/lib" /var/lib
    mount --bind "$home/log" /var/log
    mount --make-rshared /var/lib
    rm -rf /var/lib/cni/*
    # No daemon asks the machine's own resolver.
    printf 'nameserver %s\noptions ndots:1\n' "$NODE_NET.11" > "$home/resolv.conf"
    mount --bind "$home/resolv.conf" /etc/resolv.conf
}

own_network() {
    ip link set lo up
    until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done # cluster.sh moves it in
    ip addr add "$address/24" dev eth0
    ip link set eth0 up
    sysctl -qw net.ipv4.ip_forward=1
    for other in $(seq "$nodes"); do
        if [ "$other" != "$n" ]; then ip route add "$POD_NET.$other.0/24" via "$NODE_NET.1$other"; fi
    done
    # Any route will do: without one a process of the node can't connect to a service, whose address kube-proxy rewrites.
    ip route add "$SERVICE_NET.0.0/16" dev eth0
}

controllers_and_names() {
    run controllers "$kube" kube-controller-manager --kubeconfig "$pki/controllers.kubeconfig" \
        --authentication-kubeconfig "$pki/controllers.kubeconfig" --authorization-kubeconfig "$pki/controllers.kubeconfig" \
        --bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials \
        --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" \
        --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
    run scheduler "$kube" kube-scheduler --kubeconfig "$pki/scheduler.kubeconfig" \
        --authentication-kubeconfig "$pki/scheduler.kubeconfig" --authorization-kubeconfig "$pki/scheduler.kubeconfig" \
        --bind-address 127.0.0.1 --leader-elect=false
    # Two blocks, because `template` comes before `kubernetes` and would answer everything.
    cat > "$home/Corefile" <<END
cluster.local:53 in-addr.arpa:53 {
  bind $address
  errors
  health 127.0.0.1:8080
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $pki/coredns.kubeconfig
    ttl 1
  }
}
.:53 {
  bind $address
  template ANY ANY . {
    rcode NXDOMAIN
  }
}
END
    # Its rights come first: after a refusal it waits for seconds.
    "$kube" kubectl --kubeconfig "$pki/admin.kubeconfig" apply -f "$here/coredns-rbac.yaml"
    run coredns "$CLUSTER_CACHE/bin/coredns" -conf "$home/Corefile"
}

container_runtime() {
    cat > "$home/cni/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
    # restrict_oom_score_adj: in a container without CAP_SYS_RESOURCE runc may not lower a process's score.
    cat > "$home/containerd.toml" <<END
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$home/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
END
    run containerd "$CONTAINERD_BIN/containerd" --config "$home/containerd.toml"
    until ctr version > /dev/null 2>&1; do sleep 0.1; done
    run images ctr -n k8s.io images import "$CLUSTER_CACHE/pause.tar"
}

kubelet() {
    # Image collection would remove images that can't be pulled again; evictions would follow this machine's disk.
    cat > "$home/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CLUSTER_NAME/node$n
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: cluster.local
clusterDNS: [$NODE_NET.11]
resolvConf: $home/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/node$n-serving.crt
tlsPrivateKeyFile: $pki/node$n-serving.key
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
END
    run kubelet "$kube" kubelet --config "$home/kubelet.yaml" --kubeconfig "$pki/node$n.kubeconfig" \
        --hostname-override "node$n" --node-ip "$address" --root-dir /var/lib/kubelet
    # The limits of connection tracking belong to the machine's own network namespace.
    cat > "$home/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $POD_NET.0.0/17
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
    run proxy "$kube" kube-proxy --config "$home/proxy.yaml" --hostname-override "node$n"
}

main
