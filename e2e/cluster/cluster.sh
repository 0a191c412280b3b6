#!/usr/bin/env bash
# A Kubernetes cluster on this machine, from packages alone.
#
#   cluster.sh up [NODES]      raises it and waits until every node is Ready (4 s; one node unless more are asked for)
#   cluster.sh load IMAGE.tar...  gives images to every node
#   cluster.sh enter N COMMAND runs a command inside node N
#   cluster.sh down            ends it and removes every trace; also what an interrupted run left
#
# A node is a set of Linux namespaces whose process 1 is node.sh, joined to this machine by a bridge, so that pods and services
# are reached from here by their addresses:
#
#   machine .254 ── bridge ─┬─ node 1 .11: control plane, CoreDNS, kubelet, pods POD_NET.1.0/24
#                           ╰─ node 2 .12: kubelet, pods POD_NET.2.0/24
set -euo pipefail
. "$(dirname "$0")/env.sh"
run=$CLUSTER_STATE/run

up() {
    local nodes=${1:-1}
    down
    mkdir -p "$CLUSTER_STATE/log" "$run"
    note_settings
    "$here/certs.sh" $(seq "$nodes")
    ip link add "$CLUSTER_NAME" type bridge
    ip addr add "$NODE_NET.254/24" dev "$CLUSTER_NAME"
    ip link set "$CLUSTER_NAME" up
    for n in $(seq "$nodes"); do start "$n" "$nodes"; done
    ip route add "$SERVICE_NET.0.0/16" via "$NODE_NET.11" # kube-proxy of node 1 serves the machine, too
    for _ in $(seq 300); do
        if [ "$(ready)" = "$nodes" ]; then return; fi
        sleep 0.2
    done
    echo "cluster: not Ready after a minute; see $CLUSTER_STATE/log" >&2
    return 1
}

start() { # N NODES
    control_groups "$CLUSTER_NAME" "$CLUSTER_NAME/node$1"
    setsid unshare --net --mount --pid --uts --fork --kill-child --mount-proc "$here/node.sh" "$1" "$2" \
        > "$CLUSTER_STATE/log/node$1.log" 2>&1 < /dev/null 9>&- & # 9 is the lock of the run that raises it
    local outer=$! first=
    echo $outer > "$run/node$1.outer"
    # unshare is its parent; it is the one once it has become the script.
    until [ -n "$first" ] && grep -qa node.sh "/proc/$first/cmdline"; do
        [ -d /proc/$outer ] || { cat "$CLUSTER_STATE/log/node$1.log" >&2; return 1; }
        first=$(tr -d ' ' < /proc/$outer/task/$outer/children)
        sleep 0.02
    done
    echo "$first" > "$run/node$1.first"
    ip link add "$CLUSTER_NAME-$1" type veth peer name eth0 netns "$first"
    ip link set "$CLUSTER_NAME-$1" master "$CLUSTER_NAME" up
    ip route add "$POD_NET.$1.0/24" via "$NODE_NET.1$1"
}

ready() {
    kubectl --kubeconfig "$CLUSTER_STATE/pki/admin.kubeconfig" get nodes 2> /dev/null | grep -c ' Ready ' || true
}

load() {
    local loading=() image node log
    for image in "$@"; do
        image=$(realpath "$image")
        for node in "$run"/node*.first; do
            log=$run/$(basename "$node" .first).$(basename "$image" .tar).load
            nsenter -t "$(cat "$node")" -n -m -p -u -- "$CONTAINERD_BIN/ctr" -n k8s.io images import "$image" > "$log" 2>&1 &
            loading+=($!)
        done
    done
    for process in "${loading[@]}"; do
        wait "$process" || { cat "$run"/*.load >&2; return 1; }
    done
}

enter() {
    local node=$1
    shift
    nsenter -t "$(cat "$run/node$node.first")" -n -m -p -u -- "$@"
}

down() {
    for file in "$run"/node*.first "$run"/node*.outer; do
        [ -f "$file" ] || continue
        local process
        process=$(cat "$file")
        # A node only, of whichever clone: a number may have been given to another since. Process 1 takes its whole
        # namespace with it.
        if grep -qa /cluster/node.sh "/proc/$process/cmdline" 2> /dev/null; then kill -9 "$process"; fi
        while grep -qa /cluster/node.sh "/proc/$process/cmdline" 2> /dev/null; do sleep 0.05; done
        rm "$file"
    done
    # Routes go with their links; a node's link may be going with the node.
    for link in $(ip -o link show | grep -o "$CLUSTER_NAME[-0-9]*" | sort -u); do ip link del "$link" 2> /dev/null || true; done
    for hierarchy in $(hierarchies); do
        for _ in $(seq 50); do
            [ -d "$hierarchy/$CLUSTER_NAME" ] || break
            find "$hierarchy/$CLUSTER_NAME" -depth -type d -exec rmdir {} + 2> /dev/null || sleep 0.1
        done
    done
    restore_settings
    rm -rf "$CLUSTER_STATE"
}

hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

control_groups() { # NAME...: the kubelet wants to find them, with processors and memory
    for hierarchy in $(hierarchies); do
        for name in "$@"; do
            mkdir -p "$hierarchy/$name"
            if [[ $hierarchy == */cpuset ]]; then
                cat "$hierarchy/cpuset.cpus" > "$hierarchy/$name/cpuset.cpus"
                cat "$hierarchy/cpuset.mems" > "$hierarchy/$name/cpuset.mems"
            fi
        done
    done
}

# The kubelet sets these for the whole machine.
settings="vm/overcommit_memory kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes"

note_settings() {
    for setting in $settings; do echo "$setting $(cat "/proc/sys/$setting")"; done > "$run/settings"
}

restore_settings() {
    [ -f "$run/settings" ] || return 0
    while read -r setting value; do echo "$value" > "/proc/sys/$setting"; done < "$run/settings"
}

case ${1:-} in
    up | load | enter | down) "$@" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
