#!/bin/sh
# fuzz.sh [SECONDS [TARGET...]] -- builds the fuzz targets of tests/fuzz, runs each for so long (60 seconds) from its corpus, and prints what it did.
# Two run at a time.  What breaks one is left in build/fuzz/found, as are new inputs; neither is put into the tree.
# FUZZ_RUNS=N: N executions each instead, however long they take, and a hundredth of model_file, which starts a process each time.
# FUZZ_SEED=N: the same executions each time.
# shellcheck source=launch/lib.sh
. "$(dirname "$(readlink -f "$0")")/../launch/lib.sh"
seconds=${1:-60}
[ $# -eq 0 ] || shift
corpus=$PWD/tests/fuzz/corpus found=$PWD/build/fuzz/found
export ASAN_OPTIONS=malloc_context_size=8:quarantine_size_mb=16:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1

install_packages "$packages_build $packages_test $packages_fuzz"
cmake --preset fuzz --log-level=NOTICE >&2
cmake --build --preset fuzz >&2
# shellcheck disable=SC2046 # names without blanks
[ $# -gt 0 ] || set -- $(ls "$corpus")

# One target; its last lines when it fails.
run() {
    new=$found/$1 log=$found/$1.log
    mkdir -p "$new"
    limit=-max_total_time=$seconds
    [ -z "${FUZZ_RUNS:-}" ] || limit=-runs=$FUZZ_RUNS
    dictionary=
    [ ! -f "tests/fuzz/$1.dict" ] || dictionary=-dict=tests/fuzz/$1.dict
    most=512
    if [ "$1" = model_file ]; then
        most=16384 # a whole one
        [ -z "${FUZZ_RUNS:-}" ] || limit=-runs=$((FUZZ_RUNS / 100))
    fi
    [ "$1" != scheduler ] || most=128 # eight requests of four bytes each, and what happens between them
    rc=0
    # shellcheck disable=SC2086 # no dictionary, no argument
    "build/fuzz/tests/fuzz/fuzz_$1" "$limit" $dictionary ${FUZZ_SEED:+-seed=$FUZZ_SEED} -max_len=$most -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$found/$1-" "$new" "$corpus/$1" >"$log" 2>&1 || rc=$?
    awk -v name="$1" -v rc="$rc" '
        /^#/ { for (i = 2; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
        /stat::number_of_executed_units/ { runs = $2 }
        END { printf "%-12s %12d executions, %5d edges%s\n", name, runs, edges, rc == 0 ? "" : ": FAILED" }' "$log"
    [ "$rc" = 0 ] || { grep -v '^#[0-9]' "$log" | tail -n 40; }
    return "$rc"
}

failures=0
while [ $# -gt 0 ]; do
    run "$1" & first=$!
    second=
    shift
    if [ $# -gt 0 ]; then
        run "$1" & second=$!
        shift
    fi
    wait "$first" || failures=$((failures + 1))
    [ -z "$second" ] || wait "$second" || failures=$((failures + 1))
done
[ "$failures" = 0 ]
