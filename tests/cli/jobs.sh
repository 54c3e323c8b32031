#!/bin/sh
# jobs.sh POLYLEPIS NP SOURCE -- batch jobs with hostile lines: rows J04 to J09 of docs/reliability.md; the others are run_batch.sh's and
# those of tests/unit/test_json_cases.c and test_jsonl.c.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

# J05: prompts around the model's chunk of 64 give in a batch, cut into slices, what they give alone.
awk 'BEGIN {
    for (n = split("1 2 63 64 65 128 129 500", length_of); n > 0; n--) {
        printf "{\"id\": \"n%d\", \"max_tokens\": 8, \"temperature\": 0.7, \"logprobs\": 1, \"prompt\": [", length_of[n]
        for (i = 0; i < length_of[n]; i++) printf "%s%d", i ? "," : "", (i * 37 + length_of[n]) % 2000
        print "]}"
    }
}' >"$work/lengths"
cp "$work/lengths" "$in"
batch 0 --max-batch-tokens 80 --max-seqs 5
mv "$out" "$work/together"
[ "$(wc -l <"$work/together")" = 8 ] || fail "8 prompts, $(wc -l <"$work/together") answers"
n=0
while read -r prompt; do
    n=$((n + 1))
    [ $n = 8 ] || [ $((n % 3)) = 1 ] || continue # each start of the program takes its time
    printf '%s\n' "$prompt" >"$in"
    batch 0
    [ "$(line 1)" = "$(sed -n "${n}p" "$work/together")" ] || fail "prompt $n alone: $(line 1)"
    fresh
done <"$work/lengths"

# J03, J04, J06: numbers that no range holds, each named with its range; none wraps around.
: >"$in"
: >"$work/want"
bad() { # bad FIELDS MESSAGE
    printf '{"id": "%d", %s}\n' "$(wc -l <"$in")" "$1" >>"$in"
    printf '%s\n' "$2" >>"$work/want"
}
for value in -1 0 2147483648 9223372036854775807 18446744073709551617 1e10; do
    bad "\"prompt\": \"x\", \"max_tokens\": $value" "is outside 1 to 2147483647"
done
bad '"prompt": "x", "max_tokens": 1.5' 'max_tokens: 1.5 is not an integer'
bad '"prompt": "x", "max_tokens": true' 'max_tokens: true is not an integer'
bad '"prompt": "x", "max_tokens": [1]' 'is not an integer'
bad '"prompt": "x", "n": 129' 'n: 129 is outside 1 to 128'
bad '"prompt": "x", "temperature": -0.1' 'temperature: -0.1 is outside 0 to 1000'
bad '"prompt": "x", "temperature": -1e400' 'temperature: -inf is outside 0 to 1000'
bad '"prompt": "x", "top_p": 1.1' 'top_p: 1.1 is outside 0 to 1'
bad '"prompt": "x", "top_k": -2' 'top_k: -2 is outside -1 to'
bad '"prompt": "x", "seed": 18446744073709551616' 'is outside 0 to'
bad '"prompt": "x", "logprobs": 21' 'logprobs: 21 is outside -1 to 20'
bad '"prompt": "x", "stop_token_ids": [2048]' 'stop_token_ids: id 2048 at index 0'
bad '"prompt": "x", "stop": [1]' 'stop is neither a text'
bad '"prompt": "x", "ignore_eos": 1' 'ignore_eos: 1 is not true or false'
bad '"prompt": "x", "logit_bias": {"5": 60, "05": 60}' 'logit_bias: 05 is no token id'
bad '"prompt": 5' 'neither text nor a list'
bad '"prompt": [4294967296]' 'prompt[0] is no token id'
bad '"prompt": [1, 18446744073709551617]' 'prompt[1] is no token id'
bad '"prompt": [1.0]' 'prompt[0] is no token id'
bad '"prompt": [1, null]' 'prompt[1] is no token id'
bad '"prompt": [0, 2048]' 'id 2048 at index 1'
bad '"prompt": [2147483647]' 'id 2147483647 at index 0'
bad '"prompt": []' 'the prompt has no tokens'
batch 3
n=0
while read -r want; do
    n=$((n + 1))
    has $n "$want"
    has $n '"error":{'
done <"$work/want"
[ "$(wc -l <"$out")" = $n ] || fail "$n lines in, $(wc -l <"$out") out"
fresh

# J07: an id is data, whatever is in it, and names no file.
awk 'BEGIN {
    printf "{\"id\": \"../../x\", \"prompt\": \"a\", \"max_tokens\": 1}\n{\"id\": \"/etc/passwd\", \"prompt\": \"a\", \"max_tokens\": 1}\n"
    printf "{\"id\": \"a\\nb\\u001b[31m\", \"prompt\": \"a\", \"max_tokens\": 1}\n{\"id\": \"\360\237\244\226\", \"prompt\": \"a\", \"max_tokens\": 1}\n"
    printf "{\"id\": \""
    for (i = 0; i < 65536; i++) printf "0123456789abcdef"
    printf "\", \"prompt\": \"a\", \"max_tokens\": 1}\n{\"id\": \"\", \"prompt\": \"a\", \"max_tokens\": 1}\n"
}' >"$in"
batch 0
[ "$(wc -l <"$out")" = 6 ] || fail "6 ids, $(wc -l <"$out") lines"
has 1 '"id":"../../x"'
has 2 '"id":"/etc/passwd"'
has 3 '"id":"a\nb\u001b[31m"'
has 4 "$(printf '"id":"\360\237\244\226"')"
line 5 | grep -q '"id":"\(0123456789abcdef\)*","text"' || fail "an id of a mebibyte is not what it was"
[ "$(line 5 | wc -c)" -gt 1048576 ] || fail "an id of a mebibyte was cut"
has 6 '"id":""'
[ -z "$(find "$work" -newer "$in" -type f ! -name out ! -name err ! -name out.jsonl)" ] || fail "an id has become a file"
fresh

# J08: stop strings: too many, longer than the text, split over tokens; the cut is exact.
from='"prompt": [0,1106,260,1894,1074], "temperature": 0, "ignore_eos": true, "max_tokens": 9'
awk -v from="$from" 'BEGIN {
    printf "{\"id\": \"all\", %s}\n{\"id\": \"many\", %s, \"stop\": [", from, from
    for (i = 0; i < 10000; i++) printf "%s\"s%d\"", i ? "," : "", i
    printf "]}\n{\"id\": \"long\", %s, \"stop\": \"", from
    for (i = 0; i < 1000; i++) printf "of the "
    printf "\"}\n{\"id\": \"split\", %s, \"stop\": [\"hildren of Is\"]}\n{\"id\": \"first\", %s, \"stop\": [\" \"]}\n", from, from
    printf "{\"id\": \"most\", %s, \"stop\": [", from
    for (i = 0; i < 1023; i++) printf "\"s%d\",", i
    printf "\"Israel\"]}\n"
}' >"$in"
batch 3
all=$(line 1 | sed 's/.*"text":"\([^"]*\)".*/\1/')
case $all in ' of the reign of the children of Israel'*) ;; *) fail "the text is another: $all" ;; esac
has 2 '10000 stop strings'
has 2 'at most 1024'
has 3 "\"text\":\"$all\""
has 3 '"finish_reason":"length"'
has 4 '"text":" of the reign of the c"'
has 4 '"stop_reason":"hildren of Is"'
has 5 '"text":""'
has 6 '"text":" of the reign of the children of "'
fresh

# Penalties of more than 2^20 ids a step: 640 answers at a time to prompts of 2000 different tokens.
awk 'BEGIN {
    for (i = 0; i < 5; i++) {
        printf "{\"id\": \"%d\", \"n\": 128, \"max_tokens\": 40, \"ignore_eos\": true, \"repetition_penalty\": 1.1, \"prompt\": [3", i
        for (id = 4; id < 2004; id++) printf ",%d", id
        print "]}"
    }
}' >"$in"
batch 0 --max-seqs 640 --max-batch-tokens 4096
fresh

# J09: an input that comes through a pipe; one that is cut off while it is read.  It is read in pieces of 256 KiB: lines are long.
awk 'BEGIN {
    for (i = 0; i < 200; i++)
        printf "{\"id\": \"%d\", \"prompt\": [%d, %d], \"max_tokens\": %d, \"ignore_eos\": true}%4000s\n", i, i + 3, i, 12 + i % 7, ""
}' >"$in"
batch 0
mv "$out" "$work/kept"
mkfifo "$work/pipe"
cat "$in" >"$work/pipe" &
run run-batch -q --model "$demo" -i "$work/pipe" -o "$out"
[ "$rc" = 0 ] && cmp -s "$out" "$work/kept" || fail "through a pipe: exit $rc"
fresh
{ # a producer that takes its time holds nobody up: neither the other ranks nor the lines that are there
    sed -n 1,2p "$in"
    tries=0
    until [ "$(cat "$out.part" 2>/dev/null | wc -l)" -ge 3 ] || [ $tries -ge 200 ]; do sleep 0.1 && tries=$((tries + 1)); done
    cat "$out.part" 2>/dev/null | wc -l >"$work/early"
    sleep 4
    sed -n 3p "$in"
} >"$work/pipe" &
run run-batch -q --model "$demo" -i "$work/pipe" -o "$out" --max-seqs 4 --watchdog 2
[ "$rc" = 0 ] && [ "$(wc -l <"$out")" = 3 ] || fail "a slow producer: exit $rc"
[ "$(cat "$work/early")" -ge 3 ] || fail "a slow producer: its first lines waited for its last"
fresh
"${MPIEXEC:-mpirun}" -np "$np" "$polylepis" run-batch -q --model "$demo" -i "$in" -o "$out" --max-seqs 4 >"$work/out" 2>"$work/err" </dev/null &
job=$!
cp "$in" "$work/whole"
until [ -e "$out" ] || [ "$(cat "$out.part" 2>/dev/null | wc -l)" -ge 4 ] || ! kill -0 $job 2>/dev/null; do sleep 0.02; done
head -c 1000 "$work/whole" >"$in"
wait $job
rc=$?
[ "$rc" = 76 ] && [ ! -e "$out" ] && grep -q 'has changed since the job began' "$work/err" || fail "an input that is cut off: exit $rc"
cp "$work/whole" "$in"
batch 0
cmp -s "$out" "$work/kept" || fail "after an input that was cut off: another output"
finish
