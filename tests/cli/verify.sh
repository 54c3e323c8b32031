#!/bin/sh
# verify.sh POLYLEPIS NP SOURCE -- verify says what was compared, by what measure, and ends with 76 where a shard computes something else.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
says() { # says TEXT: the last line of the result
    tail -n 1 "$work/out" | grep -q -e "$1" || fail "no $1 in $(tail -n 1 "$work/out")"
}
run verify -m "$demo" --device cpu
[ $rc = 0 ] || fail "float32: exit $rc"
says "^$np ranks compute what one computes: [0-9]* comparisons within 1.0e-04 of the largest value\$"
head -n 1 "$work/out" | grep -q ratio && fail "float32: a ratio, to what?"
run verify -m "$demo" --device cpu --dtype bf16
[ $rc = 0 ] || fail "bf16: exit $rc"
says "comparisons, error against float32 at most [01]\.[0-9]* times the whole model's\$"
grep -q "memory per rank beside its shard: the whole model .* in float32" "$work/err" || fail "bf16: nothing of the third model's memory"

run_through verify -m "$demo" --device cpu --dtype bf16 --plant-difference 2 -q
[ $rc = 76 ] || fail "planted: exit $rc"
grep -q "error\[DISAGREE\]: prefill, layer 2, scan: .* times as large, 1.5 allowed" "$work/err" || fail "planted: another message"
refused 64 "--error-ratio" verify -m "$demo" --device cpu --error-ratio 2
refused 64 "--dtype F16" verify -m "$demo" --device cpu --dtype f16
finish
