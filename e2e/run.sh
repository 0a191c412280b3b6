#!/usr/bin/env bash
# make e2e: raises a cluster, installs the chart as a user would, runs the tests of e2e/tests/cluster, and takes everything
# down again, also after a failure.
#
#   E2E_CONTEXT=NAME   a cluster that you have, by its context; kubectl and helm are yours, and so is how images get there:
#   E2E_LOAD=COMMAND   is run with each image's tar, `kind load image-archive`
#   E2E_HELM=FLAGS     more flags for helm install, `--set images.operator=...`
#   E2E_NODES=1        how many nodes a raised cluster has; two unless set
#   E2E_PROFILE=release   optimised programs, twenty times the events, and the figures of speed:: (minutes more to build)
#   E2E_KEEP=1         leaves the raised cluster for you to look at; e2e/cluster/cluster.sh down ends it
#   E2E_TESTS=NAME     only the tests whose names contain it
#   E2E_FLAGS=FLAGS    more flags for the tests, `--nocapture`
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/cluster/env.sh
images=${CARGO_TARGET_DIR:-target}/images
profile=${E2E_PROFILE:-dev}
export SIDESTREAM_E2E_KUBECONFIG SIDESTREAM_E2E_PROFILE=$profile
scratch=$(mktemp -d)
building=
flags=(--set crds.keep=false ${E2E_HELM:-})

main() {
    trap finish EXIT
    cargo test --locked --package sidestream-e2e --test cluster --no-run
    if [ -n "${E2E_CONTEXT:-}" ]; then use; else raise; fi
    export KUBECONFIG=$SIDESTREAM_E2E_KUBECONFIG
    step "install the chart"
    kubectl create namespace sidestream-system --dry-run=client -o yaml | kubectl apply -f - > /dev/null
    kubectl label --overwrite namespace sidestream-system pod-security.kubernetes.io/enforce=restricted > /dev/null
    helm upgrade --install sidestream charts/sidestream --namespace sidestream-system --wait --timeout 2m \
        "${flags[@]}" 2>&1 | grep -v 'symbolic link' > "$scratch/helm.log" || failed "$scratch/helm.log"
    step "helm test"
    helm test sidestream --namespace sidestream-system > "$scratch/helm.log" 2>&1 || failed "$scratch/helm.log"
    step "tests"
    tests --skip rights:: "${E2E_TESTS:-}"
    # Last, because it reads what the others made the operator do.
    if [ -z "${E2E_TESTS:-}" ]; then tests rights::; fi
    step "done"
}

raise() {
    e2e/cluster/setup.sh
    # All clones on a machine would raise the same cluster: one run has it until it ends.
    mkdir -p "$CLUSTER_CACHE"
    exec 9> "$CLUSTER_CACHE/lock"
    flock --nonblock 9 || { step "wait for another run to end"; flock 9; }
    step "build images; beside that"
    # In a group of its own, so that it ends whole if the cluster fails.
    setsid e2e/image/build.sh "$profile" &
    building=$!
    step "build the cluster's programs (minutes when cold)"
    e2e/cluster/build.sh
    step "raise a cluster"
    e2e/cluster/cluster.sh up "${E2E_NODES:-2}"
    SIDESTREAM_E2E_KUBECONFIG=$CLUSTER_STATE/pki/admin.kubeconfig
    export SIDESTREAM_E2E_HOST=$NODE_NET.254 SIDESTREAM_E2E_AUDIT=$CLUSTER_STATE/log/audit.log
    flags+=(--set test.image=localhost/kubectl:1)
    e2e/cluster/cluster.sh load "$CLUSTER_CACHE/kubectl.tar"
    step "wait for the images"
    wait "$building"
    building=
    step "load images"
    e2e/cluster/cluster.sh load "$images"/{operator,sidecar,cli}.tar
}

use() {
    SIDESTREAM_E2E_KUBECONFIG=$scratch/kubeconfig
    kubectl config view --flatten --minify --context "$E2E_CONTEXT" > "$SIDESTREAM_E2E_KUBECONFIG"
    step "build images"
    e2e/image/build.sh "$profile"
    for image in "$images"/{operator,sidecar,cli}.tar; do ${E2E_LOAD:?names the command that gives an image tar to your cluster} "$image"; done
}

tests() { cargo test --locked --package sidestream-e2e --test cluster -- --ignored ${E2E_FLAGS:-} "$@"; }

step() { printf '%5ds  %s\n' "$SECONDS" "$1" >&2; }

failed() {
    cat "$1" >&2
    kubectl --namespace sidestream-system get all,events >&2 || true
    kubectl --namespace sidestream-system logs --tail=20 deployment/sidestream-operator >&2 || true
    exit 1
}

finish() {
    local code=$?
    trap - EXIT
    if [ -n "$building" ]; then kill -- "-$building" 2> /dev/null || true; fi
    if [ -n "${E2E_CONTEXT:-}" ]; then
        helm uninstall sidestream --namespace sidestream-system > /dev/null 2>&1 || true
        kubectl delete namespace sidestream-system > /dev/null 2>&1 || true
    elif [ -z "${E2E_KEEP:-}" ]; then
        e2e/cluster/cluster.sh down
    fi
    rm -rf "$scratch"
    exit $code
}

main
