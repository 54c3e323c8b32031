#!/bin/bash
# gpu_sanitize.sh [BUILD [SECONDS]] -- compute-sanitizer on a host with a GPU: memcheck, racecheck, initcheck and synccheck over the rows of
# test_kernels, a group of rows at a time, as many at once as there are cores, and over sums of two ranks where there are two GPUs.  A line
# for each: ok, FAILED with the end of its log, or how long it had (SECONDS each, 300).  Logs go to ${OUT:-BUILD/logs}.  Exit status: 0 if
# nothing failed.  ROWS, TOOLS in the environment: only these.
# What it finds inside kernels of cuBLAS and NCCL does not count, nor what NCCL's calls return while it tries what there is; nor for initcheck
# bias_kernel, which reads what cuBLAS stored through the copy engine: that is not followed.  For racecheck the build needs
# -DCMAKE_CUDA_FLAGS="-lineinfo -DKN_RACECHECK": it goes by each thread's own arrival at a barrier, where one lane arrives for a warp,
# and does not follow bar.arrive at all.
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit
build=${1:-build-gpu} seconds=${2:-300}
logs=${OUT:-$PWD/$build/logs}
mkdir -p "$logs"
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
groups=${ROWS:-$(sed -n 's/.*{ "\([a-z_]*\)\..*/\1/p' tests/kernels/*_test.c | sort -u)}
tools=${TOOLS:-memcheck racecheck initcheck synccheck}
gpus=$(nvidia-smi -L | wc -l)
started=0

check() { # check NAME COMMAND...
    local name=$1 begin=$SECONDS rc=0 own result others="nvjet|cutlass|nccl"
    shift
    timeout "$seconds" "$@" >"$logs/$name.log" 2>&1 || rc=$?
    case $rc in
    0) result=ok ;;
    77) result="skipped: no GPU" ;;
    124) result="no error in $seconds s, not finished" ;;
    *) result="FAILED ($rc)" ;;
    esac
    case $name in initcheck-*) others="$others|bias_kernel" ;; esac
    own=$(grep -E '^=+ +at |Race reported between|Internal Sanitizer Error|Program hit|API memory access' "$logs/$name.log" | grep -vcE "$others")
    [ "$rc" != 9 ] || [ "$own" -gt 0 ] || result="ok, but for others' kernels"
    [ "$own" = 0 ] || result="FAILED ($rc), $own findings"
    {
        printf '%-28s %s, %d s\n' "$name" "$result" $((SECONDS - begin))
        case $result in FAILED*) grep '=====' "$logs/$name.log" | head -n 20 ;; esac
    } | tee "$logs/$name.result"
}
in_turn() { # the same in the background, on the next GPU
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    CUDA_VISIBLE_DEVICES=$((started % gpus)) check "$@" &
    started=$((started + 1))
}
rm -f "$logs"/*.result
for tool in $tools; do
    command=(compute-sanitizer --tool "$tool" --error-exitcode 9)
    for group in $groups; do in_turn "$tool-$group" "${command[@]}" "$build/tests/kernels/test_kernels" cuda "$group."; done
done
wait
if [ "$gpus" -ge 2 ]; then
    for tool in $tools; do
        command=(compute-sanitizer --tool "$tool" --error-exitcode 9)
        [ "$tool" != memcheck ] || command+=(--report-api-errors no)
        for where in peers nccl; do check "$tool-$where" mpirun -np 2 "${command[@]}" "$build/tests/mpi/test_tp" $where; done
    done
fi
! grep -q FAILED "$logs"/*.result
