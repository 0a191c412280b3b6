#!/usr/bin/env bash
# Installs the real programs that the tests talk to, where it may; says what is missing where it may not.
set -euo pipefail
packages=(prometheus prometheus-node-exporter prometheus-alertmanager)
missing=()
for package in "${packages[@]}"; do
    [ -x "/usr/bin/$package" ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    # They come with services; the tests start the programs themselves, on ports of their own.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "not installed: ${missing[*]}; the test on real input says 'skipped' without them."
    echo "On Debian: sudo apt-get install ${missing[*]}"
fi
