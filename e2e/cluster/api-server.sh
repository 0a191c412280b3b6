#!/usr/bin/env bash
# api-server.sh: etcd and an API server alone, on this machine's loopback address 127.0.0.11: a cluster whose objects nobody
# acts on. For what needs no pods to run. Prints the folder of its state once it answers (pki/admin.kubeconfig,
# log/audit.log), and ends with its standard input, leaving nothing behind.
set -euo pipefail
export NODE_NET=127.0.0 CLUSTER_NAME=spl-api
CLUSTER_STATE=$(mktemp -d)
export CLUSTER_STATE
. "$(dirname "$0")/env.sh"
. "$here/control-plane.sh"

run() { # NAME COMMAND...
    "${@:2}" >> "$CLUSTER_STATE/log/$1.log" 2>&1 &
    processes+=($!)
}

end() {
    { kill -9 "${processes[@]}"; wait; } 2> /dev/null || true
    rm -rf "$CLUSTER_STATE"
}

processes=()
trap end EXIT
mkdir "$CLUSTER_STATE/log"
"$here/certs.sh"
# A loopback address can be no endpoint of the service `kubernetes`, which nobody needs here.
etcd_and_api_server "$NODE_NET.11" "$NODE_NET.11" --endpoint-reconciler-type none
pki=$CLUSTER_STATE/pki
until curl -sf --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "$API/readyz" > /dev/null; do
    for process in "${processes[@]}"; do
        kill -0 "$process" 2> /dev/null || { tail -n 5 "$CLUSTER_STATE"/log/*.log >&2; exit 1; }
    done
    sleep 0.1
done
echo "$CLUSTER_STATE"
cat > /dev/null
