# Settings of the cluster, read by every script here; each may be set beforehand.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export CLUSTER_CACHE=${CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sidestream/cluster} # what was built
export CLUSTER_STATE=${CLUSTER_STATE:-$CLUSTER_CACHE/state} # everything a running cluster writes; `down` removes it
export CLUSTER_NAME=${CLUSTER_NAME:-spl-e2e} # prefix of links and control groups
export NODE_NET=${NODE_NET:-198.18.128} # NODE_NET.0/24: node N is .1N, the machine's end .254
export POD_NET=${POD_NET:-198.18} # node N gives its pods POD_NET.N.0/24
export SERVICE_NET=${SERVICE_NET:-198.19} # services have SERVICE_NET.0.0/16
export API=https://$NODE_NET.11:6443
# containerd 2, built here, denies io_uring under RuntimeDefault, as current clusters do; Debian's own 1.6 (/usr/bin) allows it.
export CONTAINERD_BIN=${CONTAINERD_BIN:-$CLUSTER_CACHE/containerd}
export CNI_BIN=${CNI_BIN:-/usr/lib/cni}
# The cluster's own before a kubectl that may be where that containerd is.
export PATH=$CLUSTER_CACHE/bin:$CONTAINERD_BIN:$PATH
