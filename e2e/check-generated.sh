#!/usr/bin/env bash
# Whether the resource definitions and their reference pages are what the types say. The pages of the metrics and of the
# command line are compared by the tests beside their types.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked --quiet --package sidestream-crds --bin crdgen -- --check
