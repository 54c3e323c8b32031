#!/bin/sh
# bench.sh POLYLEPIS NP SOURCE -- bench --mode throughput: all requests are served, and the report adds up; --mode load.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
run bench --shape mamba2-130m --mode throughput --batch 2 --num-prompts 3 --rate 50 --input-len 3:9 --output-len 2 --max-batch-tokens 8 --device cpu --json
[ $rc = 0 ] || fail "exit $rc"
for part in '"shape": "mamba2-130m"' "\"np\": $np" '"requests": 3' '"ttft_ms": {"mean"' '"itl_ms"' '"tpot_ms"' '"host_us"' '"steps": '; do
    grep -qF -e "$part" "$work/out" || fail "no $part in $(cat "$work/out")"
done
[ "$(wc -l <"$work/out")" = 1 ] || fail "more than one line"
grep -q 'nan\|inf\|": -' "$work/out" && fail "$(cat "$work/out")"
refused 64 "--input-len 9:3" bench --shape mamba2-130m --mode throughput --input-len 9:3
refused 64 "--output-len x" bench --shape mamba2-130m --mode throughput --output-len x

# --dtype with a shape: its random matrices are of that type.
run bench --shape mamba2-130m --mode kernels --batch 1 --repeats 3 --device cpu --dtype f16 --csv
[ $rc = 0 ] || fail "f16: exit $rc"
awk -F, 'NR == 1 { next } $4 != "F16" { exit 1 } END { exit NR < 3 }' "$work/out" || fail "f16: $(cat "$work/out")"

# --mode load: three rows, of the same bytes, and shares of what reading alone takes; of a directory and of a model file.
run convert "$demo" "$work/demo.h5" -q
for model in "$demo" "$work/demo.h5"; do
    run bench --mode load --model "$model" --device cpu --csv
    [ $rc = 0 ] || fail "load: exit $rc"
    [ "$(cut -d, -f1 "$work/out" | tr '\n' ' ')" = "name read load start " ] || fail "load: rows $(cat "$work/out")"
    awk -F, 'NR == 1 { n = NF; next } NF != n || $5 + 0 <= 0 || $6 < $5 || $8 < 1e6 || $11 != 1 || (NR > 2) != ($10 > 0) { exit 1 }' "$work/out" ||
        fail "load: $(cat "$work/out")"
done
finish
