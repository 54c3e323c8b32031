#!/bin/sh
# valgrind.sh [POLYLEPIS] -- memcheck over whole runs at np 1 and 2: text, a batch job, a conversion, a state that is kept and continued.
# Reports of Open MPI and PMIx are suppressed, any other is an error.  A minute or two.
# shellcheck source=launch/lib.sh
. "$(dirname "$(readlink -f "$0")")/../launch/lib.sh"
polylepis=${1:-build/release/src/cli/polylepis}
install_packages valgrind
mpi_environment
export OMP_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '{"prompt": "In the", "max_tokens": 6, "logprobs": 2, "echo": true}\n{"prompt": [5, 6, 7], "n": 2, "top_p": 0.9, "max_tokens": 4}\n' >"$work/in"
failures=0
known=/usr/share/openmpi/openmpi-valgrind.supp
[ -f $known ] || known=tools/valgrind.supp

check() { # check NP ARGS
    np=$1
    shift
    rm -f "$work"/log.*
    mpirun -np "$np" valgrind -q --error-exitcode=99 --suppressions=$known --suppressions=tools/valgrind.supp --log-file="$work/log.%p" "$@" >"$work/out" 2>&1 &&
        [ -z "$(cat "$work"/log.*)" ] && return
    failures=$((failures + 1))
    printf 'FAILED: np %s: %s\n' "$np" "$*"
    cat "$work/out" "$work"/log.*
}
for np in 1 2; do
    rm -f "$work"/out*
    check "$np" "$polylepis" generate -q -m models/demo -p "In the beginning" -n 8 --ignore-eos --save-state "$work/state"
    check "$np" "$polylepis" generate -q -m models/demo --load-state "$work/state" -n 4 -t 1 --top-p 0.9 --json --logprobs 3
    check "$np" "$polylepis" generate -q -m tests/data/fixtures/falcon-mamba --prompt-token-ids 1,2,3 -n 4 --json
    check "$np" "$polylepis" run-batch -q -m models/demo -i "$work/in" -o "$work/out.jsonl" --prefix-cache all
    check "$np" "$polylepis" logits -q -m models/demo -i "$work/in" -o "$work/out.h5"
done
check 1 "$polylepis" convert -q models/demo "$work/out.model.h5"
check 2 "$polylepis" verify -m models/demo
[ "$failures" = 0 ]
