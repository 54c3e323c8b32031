#!/bin/sh
# faults.sh POLYLEPIS NP SOURCE HOOKS -- whatever happens to one rank, the job ends in time, says why, and leaves no process behind; and
# what only looks like a fault does not end it.  HOOKS is ON for a build with -DPLP_FAULTS=ON: faults at places that no signal can aim at.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
#
# PLP_TEST_DEVICE=cuda: the same with a GPU a rank, whose memory must be free again each time.
hooks=$4 last=$((np - 1)) device=${PLP_TEST_DEVICE:-cpu}
mkdir "$work/diag"

gpus() { nvidia-smi ${CUDA_VISIBLE_DEVICES:+-i "$CUDA_VISIBLE_DEVICES"} --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null; }
memory() { gpus | awk '{ sum += $1 } END { print sum + 0 }'; } # MiB
if [ "$device" = cuda ]; then
    [ "$(gpus | wc -l)" -ge "$np" ] || exit 77
    idle=$(memory)
fi

# start TOKENS ARGS: a job in the background, and waits until it decodes.
start() {
    tokens=$1
    shift
    : >"$work/out"
    "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" generate --model "$demo" --device "$device" -q -p "In the" --ignore-eos -n "$tokens" \
        --diag "$work/diag" "$@" \
        >"$work/out" 2>"$work/err" </dev/null &
    job=$!
    tries=0
    while [ ! -s "$work/out" ] && [ $tries -lt 300 ]; do sleep 0.1 && tries=$((tries + 1)); done
    [ -s "$work/out" ] || fail "no first token after 30 s"
}
# ended WHAT SECONDS CODE...: the job ends so soon, with one of these codes, and nothing is left of it.
ended() {
    what=$1 within=$2
    shift 2
    began=$(date +%s)
    wait "$job"
    rc=$?
    took=$(($(date +%s) - began))
    check_ended "$@"
}
check_ended() {
    [ $took -le "$within" ] || fail "$what: took $took s, at most $within"
    case " $* " in *" $rc "*) ;; *) fail "$what: exit $rc, want one of $*" ;; esac
    [ -z "$(ours)" ] || sleep 1
    left=$(ours)
    [ -z "$left" ] || fail "$what: left behind: $left"
    # shellcheck disable=SC2086 # a list
    [ -z "$left" ] || kill -9 $left
    [ "$device" = cpu ] || memory_is_free
}
memory_is_free() {
    tries=0
    while [ "$(memory)" -gt $((idle + 64)) ] && [ $tries -lt 50 ]; do sleep 0.1 && tries=$((tries + 1)); done
    [ $tries -lt 50 ] || fail "$what: $(memory) MiB in use on the GPUs 5 s later, $idle before"
}
said() { grep 'error\[' "$work/err" | grep -qE -e "$2" || fail "$1: no \"$2\" in the message"; }

if [ "$hooks" != ON ]; then
    start 30000
    kill -9 "$(pid_of $last)"
    ended "a rank is killed" 5 137

    start 30000 --watchdog 3
    kill -STOP "$(pid_of $last)"
    ended "a rank is stopped" 8 75
    said "a rank is stopped" "rank $last on .* stopped or dead.*phase decode, step [0-9]"
    "$polylepis" diag "$work/diag" >"$work/out" || fail "diag: exit $?"
    grep -q "^$last .* on .*: decode " "$work/out" || fail "diag: nothing of the rank that was stopped"

    start 400 --seed 1 -t 1 --watchdog 3
    stopped=$(pid_of 0)
    kill -STOP "$stopped" && sleep 1 && kill -CONT "$stopped"
    ended "a rank is stopped for a second" 60 0
    cp "$work/out" "$work/stopped"
    start 400 --seed 1 -t 1
    ended "undisturbed" 60 0
    cmp -s "$work/out" "$work/stopped" || fail "a rank is stopped for a second: other text"

    start 30000 --watchdog 0 # what the watchdog is for: without it nobody ends this
    kill -STOP "$(pid_of $last)" && sleep 5
    kill -0 "$job" 2>/dev/null || fail "ended without the watchdog"
    kill "$job"
    ended "the launcher is told to stop" 8 1 143
    finish
fi

# fault POINT:RANK:N:ACTION SECONDS CODE COMMAND: start included, which takes up to 4 seconds on a busy machine.
fault() {
    what=$1 within=$(($2 + 4)) code=$3
    shift 3
    began=$(date +%s)
    PLP_FAULT=$what "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" "$@" --model "$demo" --device "$device" -q --watchdog 3 --diag "$work/diag" \
        >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    took=$(($(date +%s) - began))
    check_ended "$code"
}
printf '{"id": "a", "prompt": [1, 2, 3]}\n' >"$work/in.jsonl"
write="logits -i $work/in.jsonl -o $work/out.h5"

fault load:$last:3:kill 5 137 generate -p a
[ "$device" = cpu ] || fault nccl:$last:1:kill 5 137 generate -p a --comm nccl
fault forward:0:1:kill 5 137 generate -p a
fault forward:$last:5:kill 5 137 generate -f "$source/README.md" --max-slice 64 # in the prompt
fault forward:$last:9:kill 5 137 generate -p a --ignore-eos
fault leave:$last:1:kill 5 137 generate -p a
fault load:$last:3:stop 8 75 generate -p a
said "stopped while loading" "rank $last on .*phase load"
if [ "$device" = cpu ]; then
    fault collective:0:40:hang 8 75 generate -p a --ignore-eos
    said "hangs before a collective" "rank 0 on .* does not move .*phase decode"
    "$polylepis" diag "$work/diag" >"$work/out" || fail "diag: exit $?"
    grep -q 'first difference: collective [1-9]' "$work/out" && grep -qE '^ +rank 0 +none$' "$work/out" &&
        grep -qE "^ +rank $last +all-reduce of .* bytes, not done$" "$work/out" || fail "diag: $(cat "$work/out")"
else # collectives pass the host only until a step is a graph, and where the GPUs do not write into each other's memory
    fault collective:0:3:hang 8 75 generate -p a --ignore-eos --comm nccl
    said "hangs before a collective" "rank 0 on .* waits, as all ranks do, and is the least far" # a host that is still may wait for its GPU
fi
fault sample:$last:5:fail 5 70 generate -p a --ignore-eos
said "fails alone" "fault at sample"
# shellcheck disable=SC2086 # words
fault write:0:2:fail 5 70 $write
[ ! -e "$work/out.h5" ] && [ ! -e "$work/out.h5.part" ] || fail "a job that failed left a file"
fault forward:$last:5:exit 5 3 generate -p a --ignore-eos
fault forward:0:5:abort 5 134 generate -p a --ignore-eos
fault forward:$last:5:segv 5 139 generate -p a --ignore-eos

# A batch job whose rank is killed wherever it is: the same command goes on with it, to the same bytes.
awk 'BEGIN { for (i = 0; i < 6; i++) printf "{\"id\": \"%d\", \"prompt\": [%d, 1%d], \"max_tokens\": %d, \"ignore_eos\": true}\n", i, i + 3, i, 4 + i }' \
    >"$work/batch.jsonl"
batch() { # batch CODE FAULT: undisturbed with the fault "-"
    what="run-batch $2" began=$(date +%s)
    PLP_FAULT=$2 "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" run-batch -q --model "$demo" --device "$device" -i "$work/batch.jsonl" \
        -o "$work/batch" \
        >"$work/out" 2>"$work/err" </dev/null
    rc=$? took=$(($(date +%s) - began)) within=9
    check_ended "$1"
}
batch 0 -
mv "$work/batch" "$work/whole"
for point in init:0:1 init:$last:1 handshake:0:1 handshake:$last:1 load:0:3 load:$last:3 forward:0:1 forward:$last:1 forward:0:6 \
    forward:$last:6 journal:0:1 journal:0:4 finish:0:1 finish:0:2 finish:0:3 leave:0:1 leave:$last:1; do
    rm -f "$work"/batch "$work"/batch.part "$work"/batch.lock "$work"/batch.tmp
    batch 137 $point:kill
    [ -e "$work/batch" ] && [ ! -e "$work/batch.part" ] || batch 0 -
    cmp -s "$work/whole" "$work/batch" || fail "killed at $point: another output"
    rm -f "$work/batch.lock" # of a job that was killed when all was done
    [ -z "$(find "$work" -name 'batch.[!j]*')" ] || fail "killed at $point: left behind: $(find "$work" -name 'batch.[!j]*')"
done

# What is not finite costs the request that has it, and no other.
for point in conv:0:2 ssm:$last:3 embed:0:4 logits:$last:5; do
    rm -f "$work/batch"
    batch 3 $point:nan
    [ "$(grep -c '"error":{"code":"DATA","message":"non-finite at ' "$work/batch")" = 1 ] || fail "$point: $(cat "$work/batch")"
    [ "$(grep -cvxFf "$work/whole" "$work/batch")" = 1 ] || fail "$point: more than one line differs"
done

fault forward:$last:2:slow 20 0 generate -p a --ignore-eos -n 8 # slow for 5 s, never silent for 3
finish
