#!/bin/sh
# hosts.sh POLYLEPIS NP SOURCE -- the watchdog between hosts, which PLP_FAULT_HOSTS makes of the ranks of this one: a rank that is stopped or
# hangs alone on its host is named and the job ends, and one that is only slow ends nothing.  For builds with -DPLP_FAULTS=ON.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
last=$((np - 1))

# hosts N FAULT CODE SECONDS ARGS: a host for every N ranks; it ends so soon, the start included, with that code, and leaves nothing.
hosts() {
    what="hosts of $1, $2" PLP_FAULT_HOSTS=$1 PLP_FAULT=$2 code=$3 within=$4
    export PLP_FAULT_HOSTS PLP_FAULT
    shift 4
    began=$(date +%s)
    run generate --model "$demo" -p a --ignore-eos --watchdog 3 "$@"
    took=$(($(date +%s) - began))
    unset PLP_FAULT_HOSTS PLP_FAULT
    [ "$rc" = "$code" ] || fail "$what: exit $rc, want $code"
    [ $took -le "$within" ] || fail "$what: took $took s, at most $within"
    gone 5 "$what"
}
says() { # in one line
    [ "$(grep -c 'error\[' "$work/err")" = 1 ] && grep 'error\[REMOTE\]' "$work/err" | grep -q "$1" || fail "$what: no \"$1\" in one message"
}

hosts 1 "forward:$last:9:stop" 75 20 -q -n 400
says "watchdog: rank $last on .* is stopped or dead"
hosts 1 forward:0:9:stop 75 20 -q -n 400
says "watchdog: rank 0 on .* is stopped or dead"
hosts 2 "forward:$last:9:stop" 75 20 -q -n 400 # the last host has one rank
says "watchdog: rank $last on .* is stopped or dead"
hosts 1 "collective:$last:99:hang" 75 20 -q -n 400
says "watchdog: rank $last on .* does not move and the others wait for it"
hosts 1 collective:0:99:hang 75 20 -q -n 400
says "watchdog: rank 0 on .* does not move and the others wait for it"

# No false alarm: it moves, if slowly, for longer than the limit; or is stopped for less.
hosts 1 none:0:0:none 0 60 -q -n 9
cp "$work/out" "$work/whole"
hosts 1 "forward:$last:2:slow" 0 60 -q -n 9
cmp -s "$work/out" "$work/whole" || fail "$what: other text"
hosts 1 "forward:0:2:slow" 0 60 -q -n 9
: >"$work/out"
PLP_FAULT_HOSTS=1 "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" generate --model "$demo" -q -p a --ignore-eos -n 2000 --watchdog 3 \
    --save-state "$work/state" >"$work/out" 2>"$work/err" </dev/null &
job=$!
tries=0
while [ ! -s "$work/out" ] && [ $tries -lt 300 ]; do sleep 0.1 && tries=$((tries + 1)); done
stopped=$(pid_of "$last")
if [ -n "$stopped" ]; then
    kill -s STOP "$stopped" && sleep 1.5 && kill -s CONT "$stopped"
else
    fail "stopped for a moment: it was over before"
fi
wait $job || fail "stopped for a moment: exit $?"

# SECURITY.md: sockets of our own are UDP, between hosts alone, and there are none without a watchdog.
bound() { # bound HOSTS SECONDS: how many sockets take datagrams on a port that the system gives
    PLP_FAULT_HOSTS=$1 "${MPIEXEC:-mpirun}" -np "$np" strace -f -qq -e trace=bind,connect -o "|cat >>$work/trace" "$polylepis" \
        generate --model "$demo" -q -p a -n 2 --watchdog "$2" >"$work/out" 2>"$work/err" </dev/null || fail "strace: exit $?"
    grep -c 'sin_port=htons(0), sin_addr=inet_addr("0.0.0.0")' "$work/trace"
    : >"$work/trace"
}
if strace -f -o "$work/trace" true 2>/dev/null; then
    : >"$work/trace"
    none=$(bound "$np" 3) off=$(bound 1 0) some=$(bound 1 3)
    [ "$some" = $((none + 1)) ] && [ "$off" = "$none" ] || fail "sockets bound: $some, $none on one host, $off without a watchdog"
else
    echo "no strace, or it may not trace: sockets were not counted"
fi

# Where datagrams do not get through it says so, and watches no further than before.
hosts 1 "link:$last:1:fail" 0 60 -n 9
grep -q "the watchdog's datagrams (UDP) do not get from $last hosts to" "$work/err" || fail "no link: no warning"
cmp -s "$work/out" "$work/whole" || fail "no link: other text"
finish
