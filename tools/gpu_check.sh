#!/bin/bash
# Builds on a host with a GPU, runs the tests labelled gpu, then the program's benchmarks.  Logs go to ${OUT:-build-gpu/logs}, a short
# table comes last.  Exit status: 0 if the build and all tests passed.
#   tools/gpu_check.sh [CMake arguments]
# Packages that the host lacks are taken from .carry/, which tools/carry_deps.sh fills elsewhere.
set -u
cd "$(dirname "$(readlink -f "$0")")/.."
build=${BUILD:-build-gpu}
logs=${OUT:-$PWD/$build/logs}
jobs=$(nproc)
mkdir -p "$build" "$logs"
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# Arguments of `polylepis bench`, one run a line; those behind np2 on two ranks, where there are two GPUs.
benches="--shape codestral-7b --batch 1,2,4,8,64
--shape codestral-7b --batch 64,256 --state-dtype bf16
--shape mamba2-2.7b --batch 1,2,4,8,64,256
--shape mamba2-2.7b --batch 64,256 --state-dtype bf16
--shape codestral-7b --mode prefill --tokens 2048,8192,32768
--shape mamba2-2.7b --mode prefill --tokens 2048,8192,32768
--shape falcon-mamba-7b --batch 1,8,64
--shape falcon-mamba-7b --mode prefill --tokens 8192
--shape falcon-mamba-7b --mode kernels --batch 1 --tokens 8192
--shape codestral-7b --mode throughput --batch 256 --state-dtype bf16 --num-prompts 512 --input-len 64:256 --output-len 128:128 --max-batch-tokens 2048
--shape codestral-7b --mode kernels --batch 64 --tokens 8192
--shape mamba2-2.7b --mode kernels --batch 64 --tokens 8192
np2 --mode collectives
np2 --mode collectives --comm nccl
np2 --shape codestral-7b --batch 1,8,64
np2 --shape mamba2-2.7b --batch 1,8,64
np2 --shape falcon-mamba-7b --batch 1
np2 --shape codestral-7b --mode prefill --tokens 2048,8192
np2 --shape mamba2-2.7b --mode prefill --tokens 2048,8192"

arguments=(-S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPLP_WERROR=ON -DPLP_CUDA=ON)
if [ -d .carry ]; then
    lib=$PWD/.carry/usr/lib/$(gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)
    export PKG_CONFIG_PATH=$lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$PWD/.carry LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    arguments+=("-DCMAKE_PREFIX_PATH=$PWD/.carry/usr")
fi

summary=()
status=0
step() { # name, command: runs it into a log, keeps a line for the table
    local name=$1 begin=$SECONDS result=ok
    shift
    "$@" >"$logs/$name.log" 2>&1 || { result="FAILED ($?)"; status=1; }
    summary+=("$(printf '%-24s %-12s %4d s' "$name" "$result" $((SECONDS - begin)))")
    [ "$result" = ok ] || tail -n 15 "$logs/$name.log"
    [ "$result" = ok ]
}

if step configure cmake "${arguments[@]}" "$@" && step build cmake --build "$build" -j "$jobs"; then
    step tests ctest --test-dir "$build" -L gpu --output-on-failure
    program=$(find "$build" -name polylepis -type f -perm -u+x | head -n 1)
    if [ -n "$program" ]; then
        row=0
        gpus=$(nvidia-smi -L | wc -l)
        if [ "$gpus" -ge 2 ]; then
            for shape in mamba2-2.7b codestral-7b; do step "verify-$shape" mpirun -np 2 "$program" verify --shape "$shape"; done
        fi
        while read -r line; do
            row=$((row + 1))
            command=("$program" bench)
            case $line in np2*)
                [ "$gpus" -ge 2 ] || continue
                command=(mpirun -np 2 "${command[@]}") line=${line#np2}
                ;;
            esac
            # shellcheck disable=SC2086 # a list of words
            step "bench-$row" "${command[@]}" $line && cat "$logs/bench-$row.log"
        done <<<"$benches"
    fi
fi

grep -hE 'tests passed|tests failed' "$logs/tests.log" 2>/dev/null
printf '%s\n' "${summary[@]}"
exit $status
