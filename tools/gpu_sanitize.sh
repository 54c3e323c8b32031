#!/bin/bash
# gpu_sanitize.sh [BUILD [SECONDS]] -- compute-sanitizer on a host with a GPU: memcheck, racecheck, initcheck and synccheck over the rows of
# test_kernels, a group of rows at a time, then over sums of two ranks where there are two GPUs.  A line for each: ok, FAILED with the end of
# its log, or how long it had (SECONDS each, 120).  Logs go to ${OUT:-BUILD/logs}.  Exit status: 0 if nothing failed.
set -u
cd "$(dirname "$0")/.."
build=${1:-build-gpu} seconds=${2:-120}
logs=${OUT:-$PWD/$build/logs}
mkdir -p "$logs"
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
groups=$(sed -n 's/.*{ "\([a-z_]*\)\..*/\1/p' tests/kernels/*_test.c | sort -u)
failed=0

check() { # check NAME COMMAND...
    local name=$1 begin=$SECONDS rc=0
    shift
    timeout "$seconds" "$@" >"$logs/$name.log" 2>&1 || rc=$?
    case $rc in
    0) result=ok ;;
    77) result="skipped: no GPU" ;;
    124) result="no error in $seconds s, not finished" ;;
    *) result="FAILED ($rc)" failed=1 ;;
    esac
    printf '%-28s %s, %d s\n' "$name" "$result" $((SECONDS - begin))
    case $result in FAILED*) tail -n 20 "$logs/$name.log" ;; esac
}
for tool in memcheck racecheck initcheck synccheck; do
    sanitizer=(compute-sanitizer --tool "$tool" --error-exitcode 9)
    for group in $groups; do check "$tool-$group" "${sanitizer[@]}" "$build/tests/kernels/test_kernels" cuda "$group."; done
    if [ "$(nvidia-smi -L | wc -l)" -ge 2 ]; then
        for where in peers nccl; do check "$tool-$where" mpirun -np 2 "${sanitizer[@]}" "$build/tests/mpi/test_tp" $where; done
    fi
done
exit $failed
