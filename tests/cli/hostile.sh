#!/bin/sh
# hostile.sh POLYLEPIS NP SOURCE BARE -- a hostile neighbour on the same host, and hostile text in what users send: links planted where
# outputs go, names that climb, modes of files, control characters, sockets, weights that are no numbers.  BARE is an MPI program that does nothing.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
bare=$4
: >"$work/err"
printf '{"id": "a", "prompt": [1, 2, 3], "max_tokens": 2}\n{"id": "b", "prompt": [4], "max_tokens": 2}\n' >"$work/in.jsonl"
"$polylepis" convert "$demo" "$work/demo.h5" -q || fail "convert"

# write WAY OUT: by one rank; rank 0 is the one that writes.
write() {
    case $1 in
    convert) set -- convert "$source/tests/data/fixtures/mamba2-g2-h6" "$2" ;;
    logits) set -- logits -m "$demo" -i "$work/in.jsonl" -o "$2" ;;
    batch) set -- run-batch -m "$demo" -i "$work/in.jsonl" -o "$2" ;;
    state) set -- generate -m "$demo" -p "In the" -n 2 --save-state "$2" ;;
    esac
    "$polylepis" "$@" -q >"$work/out" 2>"$work/err" </dev/null
    rc=$?
}

# Links planted at the output and at everything beside it that a job writes: what they lead to stays as it is.
victim=$work/victim
echo precious >"$victim"
for way in convert logits batch state; do
    for name in out out.part out.lock out.tmp; do
        case $way$name in batch* | *out | *part) ;; *) continue ;; esac
        for kind in symbolic dangling hard; do
            case $kind$name in dangling*part | symbolic* | hard*) ;; *) continue ;; esac
            rm -rf "$work/there" && mkdir "$work/there"
            case $kind in
            symbolic) ln -s "$victim" "$work/there/$name" ;;
            dangling) ln -s "$work/nothing" "$work/there/$name" ;;
            hard) ln "$victim" "$work/there/$name" ;;
            esac
            write $way "$work/there/out"
            case "$rc $kind $name" in
            "0 "*.lock | "0 "*.tmp | "0 hard out.part") [ -f "$work/there/out" ] || fail "$way, $kind link at $name: no output" ;;
            73*) ;;
            *) fail "$way, $kind link at $name: exit $rc" ;;
            esac
            [ "$(cat "$victim")" = precious ] || { fail "$way, $kind link at $name: the victim was written to" && echo precious >"$victim"; }
            [ ! -e "$work/nothing" ] || { fail "$way, $kind link at $name: made what it led to" && rm -f "$work/nothing"; }
        done
    done
done

# Names from files lead nowhere: ids are text.
mkdir "$work/inner"
printf '{"id": "../../escaped", "prompt": [1], "max_tokens": 1}\n{"id": "%s/escaped", "prompt": [1], "max_tokens": 1}\n' "$work" >"$work/names.jsonl"
run run-batch -m "$demo" -q -i "$work/names.jsonl" -o "$work/inner/out"
[ "$rc" = 0 ] && [ "$(ls "$work/inner")" = out ] && [ -z "$(find "$work" -name '*escaped*')" ] || fail "ids as paths: exit $rc, $(ls "$work/inner")"

# Hostile text: one line of plain text for each message, and no address in it.
plain() {
    LC_ALL=C grep -q "[$(printf '\001-\010\013-\037\177')]" "$work/err" && fail "$1: control characters on stderr"
    LC_ALL=C grep -q "$(printf '\302')[$(printf '\200-\237')]" "$work/err" && fail "$1: control characters with the eighth bit on stderr"
    grep -E '0x[0-9a-f]{5,}' "$work/err" && fail "$1: an address on stderr"
    [ "$(grep -c '^error\[OK\]' "$work/err")" = 0 ] || fail "$1: a forged line"
}
evil=$(printf 'a\033[2J\033]0;b\007c\302\2331m%%s%%n\nerror[OK]: all is well')
began=$(date +%s)
run generate -m "$work/$evil" -q -p a
check_refused 66 "a?[2J" "a path"
plain "a path"
cp "$work/in.jsonl" "$work/$evil.jsonl"
run run-batch -m "$demo" -i "$work/$evil.jsonl" -o "$work/named"
[ "$rc" = 0 ] || fail "a path of an input: exit $rc"
plain "a path of an input"
printf '{"id": "\\u001b[2J\\u009b1m\\u007f%%n\\nerror[OK]: all is well", "prompt": 7}\n{"\\u001b[2J%%s\\u0007": 1, "prompt": [1]}\n' >"$work/evil.jsonl"
run run-batch -m "$demo" -i "$work/evil.jsonl" -o "$work/evil.out"
[ "$rc" = 3 ] && [ "$(wc -l <"$work/evil.out")" = 2 ] || fail "hostile ids: exit $rc, $(wc -l <"$work/evil.out") records"
LC_ALL=C grep -q "[$(printf '\001-\010\013-\037\177')]" "$work/evil.out" && fail "hostile ids: control characters in records"
LC_ALL=C grep -q "$(printf '\302')[$(printf '\200-\237')]" "$work/evil.out" && fail "hostile ids: control characters with the eighth bit in records"
plain "hostile ids"
run logits -m "$demo" -i "$work/evil.jsonl" -o "$work/evil.h5"
[ "$rc" = 65 ] || fail "hostile ids of logits: exit $rc"
grep "error\[" "$work/err" >"$work/lines" && mv "$work/lines" "$work/err" # without what mpirun says
plain "hostile ids of logits"

# With no mask at all: others read what is finished, and before that nothing, be it a file or shared memory.
# Which files the job's processes have open or mapped, but those that it was given: the work directory is among their arguments.  (The
# brackets keep grep from itself.)
given() { ls -l /proc/$$/fd | sed -n 's/.* -> //p'; }
pids() { grep -l -a -e "${work%?}[${work#"${work%?}"}]" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3; }
used() {
    for pid in $(pids); do
        ls -l "/proc/$pid/fd" 2>/dev/null | sed -n 's/.* -> //p'
        sed -n 's/^[^ ]* rw-s [^/]*//p' "/proc/$pid/maps" 2>/dev/null
    done | grep -E "^(/dev/shm|/tmp|$work)/" | grep -v '(deleted)$' | grep -vxF -e "$(given)" | sort -u
}
# Those of them that others can read: a folder that is closed to them closes what is in it.
readable() {
    used | while read -r f; do
        d=$(dirname "$f")
        [ -n "$(find "$f" -maxdepth 0 -type f -perm /044 2>/dev/null)" ] || continue
        while [ "$d" != / ] && [ -n "$(find "$d" -maxdepth 0 -perm /011)" ]; do d=$(dirname "$d"); done
        [ "$d" != / ] || echo "$f"
    done
}
mkdir "$work/open" && chmod 0755 "$work" "$work/open"
for i in 1 2 3 4 5 6 7 8; do printf '{"id": "%s", "prompt": [1, 2, 3], "max_tokens": 300, "ignore_eos": true}\n' $i; done >"$work/long.jsonl"
(umask 0 && exec "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" run-batch -m "$work/demo.h5" -q -i "$work/long.jsonl" -o "$work/open/out" 2>/dev/null) |
    cat >"$work/out" &
job=$!
tries=0
while [ ! -s "$work/open/out.part" ] && [ $tries -lt 600 ]; do sleep 0.05 && tries=$((tries + 1)); done
used >"$work/used"
grep -q 'open/out.part$' "$work/used" && grep -q /dev/shm "$work/used" || fail "control: what the job has open was not seen: $(cat "$work/used")"
found=$(readable)
wait $job
[ "$(echo "$found" | grep -v "^$work/\(demo.h5\|long.jsonl\)$")" = "" ] || fail "while a job runs others can read $found"
[ "$(stat -c %a "$work/open/out")" = 666 ] || fail "the finished output has mode $(stat -c %a "$work/open/out")"
(umask 027 && write logits "$work/masked.h5" && [ "$rc" = 0 ]) || fail "logits under a mask"
[ "$(stat -c %a "$work/masked.h5")" = 640 ] || fail "under mask 027 an output has mode $(stat -c %a "$work/masked.h5")"

# Weights: the last number of the file becomes a NaN.
cp -r "$demo" "$work/nan"
chmod -R u+w "$work/nan"
size=$(stat -c %s "$work/nan/model.safetensors")
printf '\300\177' | dd of="$work/nan/model.safetensors" bs=1 seek=$((size - 2)) conv=notrunc 2>"$work/err" || fail "dd"
refused 65 "is NaN or infinite" generate -m "$work/nan" -q -p a
run generate -m "$work/nan" -q -p a -n 1 --allow-nonfinite
grep -q "NaN or infinite; fix: get the checkpoint" "$work/err" && fail "--allow-nonfinite: looked at"
run convert "$work/nan" "$work/nan.h5" -q
refused 65 "is NaN or infinite" generate -m "$work/nan.h5" -q -p a

# Sockets: MPI's and no other.
sockets() { strace -f -e trace=socket -o "$work/trace" "$@" >"$work/out" 2>"$work/err" </dev/null && sed -n 's/.*\(socket([^)]*)\).*/\1/p' "$work/trace" | sort | uniq -c; }
if strace -f -o "$work/trace" true 2>/dev/null; then
    sockets "$bare" nothing >"$work/bare"
    sockets "$polylepis" generate -m "$work/demo.h5" -q -p a -n 2 >"$work/ours"
    [ -s "$work/bare" ] && cmp -s "$work/bare" "$work/ours" || fail "sockets: $(diff "$work/bare" "$work/ours")"
    grep -q 'exited with 0' "$work/trace" || fail "sockets: did not run"
else
    echo "no strace, or it may not trace: sockets were not counted"
fi
finish
