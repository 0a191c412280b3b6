#!/usr/bin/env bash
# Runs a long proof in chunks, each with the next seed, and writes a line for each to docs/reference/proofs.md.
#
#   e2e/prove.sh PROOF N      until N runs of this code have passed; e2e/proofs.txt names the proofs
#   JOBS=2                    so many chunks at once, each on a processor of its own
#
# What is recorded counts: an interrupted proof goes on after its last chunk. Other code starts anew, with seeds nobody
# has tried.
set -euo pipefail
cd "$(dirname "$0")/.."
record=docs/reference/proofs.md

names() { awk '!/^#/ && NF {print $1}' e2e/proofs.txt; }

main() {
    local proof=${1:-} wanted=${2:-}
    local line
    line=$(awk -v proof="$proof" '$1 == proof' e2e/proofs.txt)
    if [ -z "$line" ] || ! [[ $wanted =~ ^[1-9][0-9]*$ ]]; then
        echo "usage: make prove PROOF=name N=count; the proofs are: $(names | paste -sd' ')" >&2
        exit 2
    fi
    local flags chunk_max tested
    read -r _ flags chunk_max tested <<<"$line"
    [ "$flags" = - ] && flags=
    [ -f "$record" ] || heading >"$record"

    # What does not build proves nothing, either way.
    proof "$flags" "$tested --no-run" 0 0
    local commit code seed passed
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
    code=$(code "$tested")
    passed=$(recorded "$proof" | awk -v code="$code" '$5 == code && $4 == "passed" {sum += $3} END {print sum + 0}')
    seed=$(recorded "$proof" | awk '$2 >= seed {seed = $2} END {print seed + 1}')
    echo "$proof: $passed of $wanted runs of code $code have passed"
    # Each chunk is a group of processes, or who interrupts this would leave them running.
    set -m
    trap 'for one in "${running[@]}"; do kill -- "-$one"; done; exit 130' INT TERM
    while ((passed < wanted)); do
        local running=() one has_failed=
        while ((passed < wanted && ${#running[@]} < ${JOBS:-1})); do
            local count=$((wanted - passed < chunk_max ? wanted - passed : chunk_max))
            chunk "$count" "$seed" &
            running+=($!)
            passed=$((passed + count)) seed=$((seed + 1))
        done
        for one in "${running[@]}"; do wait "$one" || has_failed=yes; done
        [ -z "$has_failed" ] || exit 1
        echo "$proof: $passed of $wanted"
    done
}

# One chunk of what main has begun, and its line.
chunk() {
    local count=$1 seed=$2 begun=$SECONDS result=passed
    proof "$flags" "$tested" "$count" "$seed" || result=failed
    echo "| $(date -u +%F) | $proof | $seed | $count | $result | $((SECONDS - begun)) s | $commit | $code | $(machine) |" >>"$record"
    if [ $result = failed ]; then
        echo "$proof fails: SIDESTREAM_PROVE_SEED=$seed SIDESTREAM_PROVE_N=$count, $record has the line" >&2
        return 1
    fi
}

# Optimised, but with what the code asserts of itself; without link-time optimisation, which takes longer than the tests.
proof() {
    local flags=$1 tested=$2 count=$3 seed=$4 folder=${CARGO_TARGET_DIR:-target}
    # Its own folder for other flags, or everything would be built anew each time.
    [ -n "$flags" ] && folder+=/${flags#--cfg=} && export RUSTFLAGS=$flags
    case $flags in
        coverage) fuzzed "$count" "$seed" "$folder/corpus/${tested##* }" "$EDGES $COMPARES" ;;
        edges) fuzzed "$count" "$seed" "$folder/corpus/${tested##* }" "$EDGES" ;;
    esac
    # shellcheck disable=SC2086 # several words on purpose
    CARGO_TARGET_DIR=$folder CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
        SIDESTREAM_PROVE_N=$count SIDESTREAM_PROVE_SEED=$seed PROPTEST_CASES=$count PROPTEST_RNG_SEED=$seed \
        cargo test --locked --quiet --release $tested
}

# What is fuzzed tells libFuzzer which way an input took, and is told by arguments how many it is to try. Its inputs grow in a
# folder of their own, and the one that it fails on is put beside them.
fuzzed() {
    local count=$1 seed=$2 corpus
    corpus=$(realpath -m "$3")
    RUSTFLAGS=$4
    # Else what runs while it is built, such as macros, would be made so too.
    CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
    export CARGO_BUILD_TARGET CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
    ((count == 0)) && return
    mkdir -p "$corpus"
    tested+=" -- $corpus -artifact_prefix=$corpus- -runs=$count -seed=$seed -max_len=4096 -timeout=20 -rss_limit_mb=1024"
}

# As cargo-fuzz has it (https://github.com/rust-fuzz/cargo-fuzz, src/project.rs).
EDGES='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
EDGES+=' -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table'
COMPARES='-Cllvm-args=-sanitizer-coverage-trace-compares'

# What is proven: the sources of the package that is tested and of all that it is built from, as they stand, committed or not.
code() {
    local package=${1#*--package } built
    package=${package%% *}
    built=$(cargo tree --locked --package "$package" --all-features --prefix none | sed "s|$PWD/||; s| ([*])$||; s| (proc-macro)||" | sort -u)
    {
        echo "$built"
        sed -n 's/.* (\([^ ]*\))$/\1/p' <<<"$built" | xargs git ls-files --cached --others --exclude-standard -- | sort -u |
            while read -r file; do [ ! -f "$file" ] || echo "$file $(git hash-object "$file")"; done
    } | git hash-object --stdin | cut -c1-8
}

# The lines of a proof: date, seed, count, result, code.
recorded() {
    awk -F ' *[|] *' -v proof="$1" '$3 == proof {print $2, $4, $5, $6, $9}' "$record"
}

machine() {
    local model
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)
    echo "$(getconf _NPROCESSORS_ONLN) x ${model:-$(uname -m)}, $(uname -sr)"
}

heading() {
    cat <<'TEXT'
# Proofs

The long runs of the tests that take a seed, as `make prove` wrote them: `make prove PROOF=shuttle N=100000` runs until so
many have passed for the code as it stands, and appends a line for each chunk. `e2e/proofs.txt` says what each one is. The
column *code* names the sources of what is tested and of all that it is built from by their content, so that a line holds for
every commit that has the same ones.

| date | proof | seed | count | result | time | commit | code | machine |
|---|---|---:|---:|---|---:|---|---|---|
TEXT
}

# Interrupted is not failed.
trap 'exit 130' INT TERM
main "$@"
