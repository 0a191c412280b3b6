#!/usr/bin/env bash
# build.sh [PROFILE]: the three images, as tars of OCI layouts in target/images, without a daemon.
#
#   operator   from scratch: one static program (musl)
#   sidecar    the program and the libraries it names (glibc, because it is to load plug-ins)
#   cli        the command line, for pods that push and pull; stands on the same
#
# For release, or by another profile of cargo's: the tests on a cluster take `dev`.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${1:-release}
target=${CARGO_TARGET_DIR:-target} folder=${profile/dev/debug} musl=x86_64-unknown-linux-musl
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
out=$target/images
mkdir -p "$out"

command -v musl-gcc > /dev/null || { echo "image: needs musl-gcc; on Debian: apt-get install musl-tools" >&2; exit 1; }
rustup target add $musl 2> /dev/null
# Together: either ends in a chain of crates that leaves a processor idle. Each in a folder of its own, so that neither
# waits for the other's lock.
CARGO_TARGET_DIR=$target/musl cargo build --locked --profile "$profile" --target $musl --package sidestream-operator &
operator=$!
cargo build --locked --profile "$profile" --package sidestream-sidecar --bin sidestream-sidecar --package sidestream --bin sidestream || { kill $operator; exit 1; }
wait $operator

image() { # NAME PROGRAM FOLDER [--glibc]
    # Names stay, so that a panic says where it was; line tables go.
    objcopy --strip-debug "$3/$2" "$out/$2"
    e2e/image/image.py "$out/$1.tar" "sidestream.dev/$1:$version" "/$2" "$out/$2=/$2" "${@:4}"
}
image operator sidestream-operator "$target/musl/$musl/$folder"
image sidecar sidestream-sidecar "$target/$folder" --glibc
image cli sidestream "$target/$folder" --glibc
