#!/usr/bin/env bash
# install-manifest.sh [--check]: manifests/install.yaml, what `helm install` would apply, for those who have no Helm. With
# --check it only says whether the file and the chart are in order.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/cluster/env.sh
command -v helm > /dev/null || { echo "not compared: manifests/install.yaml; needs helm, which make e2e builds"; exit 0; }

# Helm mentions each symbolic link; there is one for each file that the chart and others share.
quiet() { "$@" 2> >(grep -v 'symbolic link' >&2); }

text=$(
    cat <<END
# Generated from charts/sidestream by \`make generate\`. Do not edit.
# kubectl apply --server-side -f install.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: sidestream-system
  labels: {pod-security.kubernetes.io/enforce: restricted}
END
    quiet helm template sidestream charts/sidestream --namespace sidestream-system --skip-tests
)

if [ "${1:-}" = --check ]; then
    quiet helm lint --strict --quiet charts/sidestream
    [ "$text" = "$(cat manifests/install.yaml)" ] || { echo "manifests/install.yaml is stale; run \`make generate\`" >&2; exit 1; }
else
    printf '%s\n' "$text" > manifests/install.yaml
    echo manifests/install.yaml
fi
