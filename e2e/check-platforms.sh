#!/usr/bin/env bash
# Type-checks what can't be run here, where the tools for it are installed; says what was not checked where they are not.
# Windows: the whole workspace but the operator, which runs in Linux containers only; Debian's mingw compiles the C parts. macOS: the crates without C.
set -euo pipefail
cd "$(dirname "$0")/.."
without_c=(event ring host plan expr scheduler graph crds)

has_target() { rustup target list --installed 2>/dev/null | grep -qx "$1"; }

windows=x86_64-pc-windows-gnu
if ! has_target $windows; then
    echo "not checked: $windows; rustup target add $windows"
elif ! command -v x86_64-w64-mingw32-gcc >/dev/null; then
    echo "not checked: $windows; on Debian: apt-get install gcc-mingw-w64-x86-64"
else
    cargo check --workspace --exclude sidestream-operator --locked --target $windows
fi

mac=aarch64-apple-darwin
if has_target $mac; then
    cargo check "${without_c[@]/#/--package=sidestream-}" --locked --target $mac
else
    echo "not checked: $mac; rustup target add $mac"
fi
