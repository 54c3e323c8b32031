#!/bin/sh
# kill_resume.sh POLYLEPIS MODEL N [NP [SEED]] -- kills a batch job N times and goes on with it each time.
#
# One undisturbed job says what comes out and how long it takes.  Then N jobs are started, and in each a random rank is killed (SIGKILL) at
# a random moment, in every second job twice; started again, each must give the same bytes, and leave nothing behind.  No job may take
# longer than five minutes.
set -u
polylepis=$1 model=$2 n=$3 np=${4:-2} seed=${5:-1} lines=100
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk -v seed="$seed" -v lines=$lines 'BEGIN {
    srand(seed)
    for (i = 0; i < lines; i++) {
        ids = int(2000 * rand())
        for (k = int(40 * rand() * rand()); k > 0; k--) ids = ids "," int(2000 * rand())
        if (i % 40 == 7) printf "{\"id\": \"r%d\", \"prompt\": [%s], \"max_tokens\": -1}\n", i, ids
        else printf "{\"id\": \"r%d\", \"prompt\": [%s], \"max_tokens\": %d, \"temperature\": %s, \"ignore_eos\": true}\n", i, ids,
                    1 + int(60 * rand()), i % 3 ? 0 : 0.9
    }
}' >"$work/in.jsonl"

start() { # start OUTPUT: in the background; leaves $job
    timeout -k 5 300 "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" run-batch -q --model "$model" -i "$work/in.jsonl" -o "$1" --max-seqs 8 \
        >"$work/log" 2>&1 </dev/null &
    job=$!
}
now() { date +%s%N | cut -c 1-13; }
child() { cat /proc/"$1"/task/*/children 2>/dev/null; }
ranks() { for launcher in $(child "$job"); do child "$launcher"; done; }

begin=$(now)
start "$work/whole"
wait "$job"
rc=$?
took=$(($(now) - begin))
[ "$rc" = 3 ] && [ "$(wc -l <"$work/whole")" = $lines ] || { echo "undisturbed: exit $rc" && cat "$work/log" && exit 1; }

killed=0 early=0 resumed=0 dead=0
awk -v seed="$seed" -v n="$n" -v took="$took" -v np="$np" 'BEGIN {
    srand(seed)
    for (i = 0; i < n; i++) print int(0.9 * took * rand()), int(0.9 * took * rand()), 1 + int(np * rand()), 1 + int(np * rand()), i % 2
}' >"$work/plan"
while read -r first second rank1 rank2 twice; do
    rm -f "$work"/out*
    for attempt in "$first $rank1" "$second $rank2"; do
        [ "$attempt" = "$second $rank2" ] && [ "$twice" = 0 ] && continue
        start "$work/out"
        sleep "$(awk -v ms="${attempt% *}" 'BEGIN { print ms / 1000 }')"
        victim=
        while [ -z "$victim" ] && kill -0 "$job" 2>/dev/null; do # it may not have started yet
            victim=$(ranks | tr ' ' '\n' | grep . | sed -n "${attempt#* }p")
        done
        if [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null; then killed=$((killed + 1)); else early=$((early + 1)); fi
        wait "$job"
        rc=$?
        [ "$rc" != 124 ] || { echo "a killed job hangs" && exit 1; }
        [ "$rc" != 3 ] || break # it was done before
    done
    [ ! -s "$work/out.part" ] || resumed=$((resumed + 1)) dead=$((dead + $(wc -l <"$work/out.part") - 1))
    if [ ! -e "$work/out" ] || [ -e "$work/out.part" ]; then
        start "$work/out"
        wait "$job"
        rc=$?
        [ "$rc" = 3 ] || { echo "resumed at $first ms: exit $rc" && cat "$work/log" && exit 1; }
    fi
    cmp "$work/whole" "$work/out" || { echo "killed at $first ms: another output" && exit 1; }
    [ -z "$(find "$work" -name 'out.*')" ] || { echo "left behind: $(find "$work" -name 'out.*')" && exit 1; }
done <"$work/plan"
echo "$n jobs of $took ms at np $np: $killed kills, $early that met no rank; $resumed resumed, $dead lines kept; all outputs identical"
