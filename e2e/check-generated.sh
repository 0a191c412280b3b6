#!/usr/bin/env bash
# Whether the resource definitions, their reference pages and the install manifest are what the types and the chart say. The
# pages of the metrics and of the command line are compared by the tests beside their types.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked --quiet --package sidestream-crds --bin crdgen -- --check
e2e/install-manifest.sh --check
