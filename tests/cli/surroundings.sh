#!/bin/sh
# surroundings.sh POLYLEPIS NP SOURCE HOOKS OTHER -- what is around the program: other builds (OTHER is one), no GPU, too little memory, places
# that cannot be written to or vanish, a hostile environment, a machine that errs.  It says so, or gives the same bytes.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
other=$5

# Ranks of two builds.
"${MPIEXEC:-mpirun}" -np 1 "$polylepis" generate -q --model "$demo" -p a : -np 1 "$other" generate -q --model "$demo" -p a \
    >"$work/out" 2>"$work/err" </dev/null
rc=$? began=$(date +%s)
check_refused 76 "build" "two builds"
grep 'error\[DISAGREE\]' "$work/err" | grep -q 'rank 1 on .*another build' || fail "two builds: rank 1 is not named"

# No GPU to be had, as far as one can tell without one.
CUDA_VISIBLE_DEVICES= refused 69 "" generate -q --model "$demo" -p a --device cuda
grep -qE 'built without CUDA|no GPU is visible on' "$work/err" || fail "--device cuda: $(cat "$work/err")"

# Memory: refused before the weights are read, with a number of slots that would do.
refused 71 "state slots fit" generate -q --model "$demo" -p a --device cpu --prefix-cache all --cache-memory 16000000
slots=$(sed -n 's/.*fix: \([0-9]*\) state slots fit.*/\1/p' "$work/err")
[ "${slots:-0}" -gt 16 ] || fail "no number of slots"

# Outputs.
printf '{"id": "a", "prompt": [5, 6], "max_tokens": 4}\n' >"$work/in.jsonl"
job="run-batch -q --model $demo --device cpu -i $work/in.jsonl"
mkdir "$work/there"
# shellcheck disable=SC2086 # words
{
    refused 73 "cannot open the directory" $job -o "$work/missing/out"
    refused 73 "no regular file" $job -o "$work/there"
    refused 73 "is an input" $job -o "$work/in.jsonl"
    for name in part tmp lock; do # what a job makes and takes away
        cp "$work/in.jsonl" "$work/named.$name"
        refused 73 "named.$name is an input" $job -i "$work/named.$name" -o "$work/named" --force
        cmp -s "$work/in.jsonl" "$work/named.$name" || fail "named.$name, the input, was lost"
        refused 73 "is the job's own" $job -o "$work/sum" --summary "$work/sum.$name"
    done
    refused 73 "is the job's own" $job -o "$work/sum.part" --summary "$work/sum"
    ln -s nowhere "$work/linked"
    refused 73 "linked is not a regular file" $job -o "$work/sum" --summary "$work/linked"
    rm -f "$work"/named.* "$work/linked"
    refused 73 "no regular file" $job -o /dev/full
    run $job -o /proc/out
    [ "$rc" = 73 ] || [ "$rc" = 77 ] || fail "into /proc: exit $rc"
    [ "$(grep -c 'error\[' "$work/err")" = 1 ] || fail "into /proc: want one line"
    refused 73 "No such file or directory; fix: create it" convert "$demo" "$work/missing/m.h5"
    run $job -o "$work/whole"
    [ "$rc" = 0 ] || fail "a job: exit $rc"
    refused 73 "exists" $job -o "$work/whole"
}

# The directory vanishes while the job runs.
awk 'BEGIN { for (i = 0; i < 14; i++) printf "{\"id\": \"%d\", \"prompt\": [%d], \"max_tokens\": 400, \"ignore_eos\": true}\n", i, i }' >"$work/many.jsonl"
"$polylepis" run-batch -q --model "$demo" --device cpu -i "$work/many.jsonl" -o "$work/there/out" --max-seqs 2 >"$work/out" 2>"$work/err" </dev/null &
job_pid=$!
until [ "$(cat "$work/there/out.part" 2>/dev/null | wc -l)" -ge 2 ] || ! kill -0 $job_pid 2>/dev/null; do sleep 0.02; done
rm -rf "$work/there"
wait $job_pid
rc=$?
[ "$rc" = 73 ] || [ "$rc" = 74 ] || fail "a directory that vanishes: exit $rc"
[ "$(grep -c 'error\[' "$work/err")" = 1 ] || fail "a directory that vanishes: want one line"

# The environment: refused, or the same bytes.
generate="generate -q --model $demo --device cpu -p beginning -n 12 -t 0.8 --seed 3 --json --logprobs 2"
same() { # same WHAT: of $work/out and what it should be, but for the times
    [ "$rc" = 0 ] || fail "$1: exit $rc"
    sed 's/"timings".*//' "$work/out" | cmp -s - "$work/kept" || fail "$1: other bytes"
}
# shellcheck disable=SC2086 # words
{
    run $generate
    sed 's/"timings".*//' "$work/out" >"$work/kept"
    grep -q '"token_ids"' "$work/kept" || fail "nothing to compare with"
    for setting in LC_ALL=de_DE.UTF-8 LC_NUMERIC=de_DE LANG=xx_YY TZ=:/nonexistent HOME=/nonexistent TMPDIR= OMP_NUM_THREADS=7 OMP_SCHEDULE=dynamic \
        MALLOC_PERTURB_=165 OMPI_MCA_coll_tuned_use_dynamic_rules=1 OMPI_MCA_coll=^tuned NCCL_ALGO=nonsense CUDA_LAUNCH_BLOCKING=1 POSIXLY_CORRECT=1; do
        "${MPIEXEC:-mpirun}" -np "$np" env "$setting" "$polylepis" $generate >"$work/out" 2>"$work/err" </dev/null
        rc=$?
        same "$setting"
    done
    for setting in HDF5_PLUGIN_PATH=/tmp HDF5_DRIVER=core HDF5_VOL_CONNECTOR=x; do # a checkpoint directory needs no HDF5
        "${MPIEXEC:-mpirun}" -np "$np" env "$setting" "$polylepis" $generate >"$work/out" 2>"$work/err" </dev/null
        rc=$?
        [ $rc = 0 ] && same "$setting" || grep -q 'error\[' "$work/err" || fail "$setting: exit $rc and no word"
    done
    (umask 0 && "$polylepis" $generate >"$work/out" 2>"$work/err" && sed 's/"timings".*//' "$work/out" >"$work/alone")
    for stack in 1024 unlimited; do
        (ulimit -S -s $stack && "$polylepis" $generate >"$work/out" 2>"$work/err")
        sed 's/"timings".*//' "$work/out" | cmp -s - "$work/alone" || fail "ulimit -s $stack: other bytes"
    done
    "$polylepis" $generate <&- >"$work/out" 2>&-
    sed 's/"timings".*//' "$work/out" | cmp -s - "$work/alone" || fail "without stdin and stderr: other bytes"
    "$polylepis" $generate >/dev/full 2>"$work/err"
    [ $? = 74 ] || fail "stdout to a full disk"
    timeout 20 "$polylepis" $generate >&- 2>"$work/err"
    [ $? = 74 ] || fail "without stdout"
    (ulimit -f 14000 && "$polylepis" convert -q "$demo" "$work/large.h5" 2>"$work/err") # blocks of 512 bytes
    [ $? = 74 ] && [ -z "$(find "$work" -name 'large*')" ] || fail "a file that may not grow"
    awk 'BEGIN { for (i = 0; i < 20; i++) { printf "{\"id\": \"%d\", \"prompt\": [1", i; for (k = 0; k < 90; k++) printf ",%d", k; print "]}" } }' >"$work/large.in"
    (ulimit -f 14000 && "$polylepis" logits -q --model "$demo" --device cpu -i "$work/large.in" -o "$work/large.h5" 2>"$work/err")
    [ $? = 74 ] && [ "$(grep -c . "$work/err")" = 1 ] && [ -z "$(find "$work" -name 'large.h5*')" ] || fail "logits that may not grow: $(cat "$work/err")"
    (ulimit -n 40 && "$polylepis" $generate >"$work/out" 2>"$work/err")
    rc=$?
    [ $rc != 0 ] || sed 's/"timings".*//' "$work/out" | cmp -s - "$work/alone" || fail "few descriptors: other bytes"
}

# A machine that errs: the canary's answer is not what it was.
# shellcheck disable=SC2086 # words
{
    canary="$job -o $work/bird --force --canary $work/canary"
    run $canary
    run $canary --prefix-cache align
    run $canary
    [ "$rc" = 0 ] && [ "$(wc -l <"$work/canary")" = 2 ] || fail "two ways to compute: $(cat "$work/canary" "$work/err")"
    truncate -s -1 "$work/canary" # an editor that leaves no end at the last line
    run $canary --prefix-cache align
    run $canary --max-slice 64
    [ "$rc" = 0 ] && [ "$(wc -l <"$work/canary")" = 3 ] || fail "a line without an end: $(cat "$work/canary" "$work/err")"
    other_weights "$work/other"
    run $canary --model "$work/other"
    [ "$rc" = 0 ] && [ "$(wc -l <"$work/canary")" = 4 ] || fail "other weights: $(cat "$work/canary" "$work/err")"
    sed -i 's/"canary":".../"canary":"xyz/' "$work/canary"
    rm "$work/bird"
    run $canary
    [ "$rc" = 76 ] && grep -q 'at the start, was xyz' "$work/err" || fail "at the start: not noticed"
    [ -z "$(find "$work" -name 'bird*')" ] || fail "something was begun"
    echo nonsense >"$work/canary"
    run $canary
    [ "$rc" = 65 ] || fail "no file of canaries: exit $rc"
    # At the end: the line changes while the job runs.
    rm "$work/canary"
    "$polylepis" run-batch -q --model "$demo" --device cpu -i "$work/many.jsonl" -o "$work/bird" --max-seqs 2 --canary "$work/canary" >"$work/out" 2>"$work/err" </dev/null &
    job_pid=$!
    until [ "$(cat "$work/bird.part" 2>/dev/null | wc -l)" -ge 2 ] || ! kill -0 $job_pid 2>/dev/null; do sleep 0.02; done
    sed -i 's/"canary":".../"canary":"xyz/' "$work/canary"
    wait $job_pid
    [ $? = 76 ] && [ ! -e "$work/bird" ] && grep -q 'at the end, was xyz' "$work/err" || fail "at the end: not noticed"
}
finish
