#!/bin/sh
# soak.sh POLYLEPIS TEST_SOAK MODEL [RUNS] -- what takes long: memory over a thousand engines, a hundred thousand requests and a million tokens
# (at np 1 and 2), the same job RUNS times with the same bytes, and a rank stopped for a second RUNS times without a false alarm.  Prints a
# line for each; RUNS is 100 by default.
set -u
polylepis=$1 test_soak=$2 model=$3 runs=${4:-100}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
launch() { "${MPIEXEC:-mpirun}" -np "$@"; }
fail() {
    echo "FAILED: $*"
    failed=1
}

for np in 1 2; do launch $np "$test_soak" 1000 100000 11 || fail "soak at np $np"; done

awk 'BEGIN { for (i = 0; i < 20; i++) printf "{\"id\": \"%d\", \"prompt\": [%d, %d], \"max_tokens\": %d}\n", i, i + 3, 7 * i, 10 + i }' >"$work/in.jsonl"
i=0
while [ $i -lt "$runs" ]; do
    launch $((1 + i % 2)) "$polylepis" run-batch -q --device cpu -m "$model" -i "$work/in.jsonl" -o "$work/out" --max-seqs $((1 + i % 7)) -t 0.8 --force \
        2>"$work/err" || fail "run $i: $(cat "$work/err")"
    sha256sum <"$work/out"
    i=$((i + 1))
done | sort | uniq -c >"$work/sums"
echo "the same job $runs times, np 1 and 2, 1 to 7 requests at a time: $(wc -l <"$work/sums") different output"
[ "$(wc -l <"$work/sums")" = 1 ] || fail "outputs differ: $(cat "$work/sums")"

i=0 alarms=0
while [ $i -lt "$runs" ]; do
    : >"$work/out"
    "${MPIEXEC:-mpirun}" -np 2 "$polylepis" generate -q --device cpu -m "$model" -p "In the" --ignore-eos -n 100000 --watchdog 3 >"$work/out" 2>"$work/err" </dev/null &
    job=$!
    until [ -s "$work/out" ] || ! kill -0 $job 2>/dev/null; do sleep 0.05; done
    rank=$(tr ' ' '\n' <"/proc/$job/task/$job/children" | grep . | sed -n $((1 + i % 2))p) # mpirun's children are the ranks
    if ! grep -q polylepis "/proc/$rank/comm"; then
        fail "no rank to stop among the children of $job"
    elif ! { kill -STOP "$rank" && sleep 1 && kill -CONT "$rank" && sleep 0.7 && kill -0 $job; }; then
        alarms=$((alarms + 1))
    fi
    kill $job 2>/dev/null
    wait $job
    i=$((i + 1))
done
echo "a rank stopped for a second, $runs times: $alarms false alarms"
[ $alarms = 0 ] || fail "false alarms"
exit $failed
