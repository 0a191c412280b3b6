#!/usr/bin/env bash
# Whether this machine has what a cluster from packages needs. Installs what is missing where it may, says it where not.
set -euo pipefail
. "$(dirname "$0")/env.sh"

cannot() {
    echo "cluster: $1; E2E_CONTEXT=NAME tests on a cluster that you have" >&2
    exit 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || cannot "needs Linux on x86-64, this is $(uname -sm)"
[ "$(id -u)" = 0 ] || cannot "needs root, for namespaces and links"
grep -q ' /sys/fs/cgroup/memory cgroup ' /proc/mounts || cannot "needs control groups v1 or hybrid; v2 alone is not tried"
command -v go > /dev/null || cannot "needs Go 1.26, https://go.dev/dl"

declare -A package=([runc]=runc [nft]=nftables [ip]=iproute2 [unshare]=util-linux [openssl]=openssl [curl]=curl [gcc]=gcc
    [python3]=python3 [tcpdump]=tcpdump [musl-gcc]=musl-tools ["$CNI_BIN/bridge"]=containernetworking-plugins)
missing=()
for command in "${!package[@]}"; do
    command -v "$command" > /dev/null || missing+=("${package[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
command -v apt-get > /dev/null || cannot "needs what Debian calls ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
