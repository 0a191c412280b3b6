#!/usr/bin/env bash
# cluster.sh: the figures of e2e/tests/cluster/speed.rs, of the programs for release on a cluster that is raised for them.
# Where this machine can't raise one, e2e/cluster/setup.sh says why, and they are left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
e2e/cluster/setup.sh || exit 0
E2E_PROFILE=release E2E_TESTS=speed:: E2E_FLAGS=--nocapture exec e2e/run.sh
