#!/bin/sh
# run_batch.sh POLYLEPIS NP SOURCE -- batch jobs: what comes out, what a bad line gets, and what becomes of a job that is stopped or killed.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

# Greedy, the plain form: the tokens that `generate` gives, which are tested against an implementation that is not ours.
printf '%s\n' '{"id": "a", "prompt": "In the beginning", "temperature": 0, "max_tokens": 9, "logprobs": 2}' \
    '{"custom_id": "b/../é", "prompt": [0,1106,260,1894,1074], "temperature": 0, "ignore_eos": true, "max_tokens": 24}' \
    '{"prompt": [0,1106,260,1894,1074], "temperature": 0, "stop": ["Zion", "Israel,"], "max_tokens": 100}' \
    '{"id": "s", "prompt": [0,1106,260,1894,1074], "temperature": 0, "stop": "Israel", "include_stop_str_in_output": true, "max_tokens": 100}' \
    '{"id": "i", "prompt": [0,1106,260,1894,1074], "temperature": 0, "stop_token_ids": [12, 9], "max_tokens": 100}' >"$in"
batch 0
[ "$(wc -l <"$out")" = 5 ] || fail "5 lines in, $(wc -l <"$out") out"
run generate -q --model "$demo" --prompt "In the beginning" -n 9 --json
has 1 "$(sed 's/.*\("token_ids":\[[0-9,]*\]\).*/\1/' "$work/out")"
has 1 '"usage":{"prompt_tokens":4,"completion_tokens":9,"total_tokens":13}'
[ "$(line 1 | grep -o '"logprob":-' | wc -l)" = 27 ] || fail "9 tokens with 2 alternatives each: 27 logprobs"
has 2 '"id":"b/../é"'
has 2 '"token_ids":[269,260,1259,269,260,561,269,488,12,270,269,260,561,269,1945,1799,12,270,269,260,432,303,969,269]'
has 2 '"finish_reason":"length","stop_reason":null'
has 3 '"id":"2","text":" of the reign of the children of "'
has 3 '"finish_reason":"stop","stop_reason":"Israel,"'
has 4 '"text":" of the reign of the children of Israel"'
has 5 '"token_ids":[269,260,1259,269,260,561,269,488,12],"finish_reason":"stop","stop_reason":12'
[ -z "$(find "$work" -name 'out.jsonl.*')" ] || fail "something is left behind"

# An output that is there is not touched; a second job may replace it on request.
cp "$out" "$work/kept"
refused 73 "exists" run-batch -q --model "$demo" -i "$in" -o "$out"
cmp -s "$out" "$work/kept" || fail "a refused job changed the output"
batch 0 --force --max-tokens 3
cmp -s "$out" "$work/kept" || fail "--force: another output"
if [ "$np" = 1 ]; then # rank 0 alone sees to files
    refused 73 "is an input" run-batch -q --model "$demo" -i "$in" -o "$in" --force
    refused 73 "missing" run-batch -q --model "$demo" -i "$in" -o "$work/missing/out"
    refused 73 "no regular file" run-batch -q --model "$demo" -i "$in" -o "$work" --force
    refused 73 "/proc/out" run-batch -q --model "$demo" -i "$in" -o /proc/out
    refused 66 "none" run-batch -q --model "$demo" -i "$work/none" -o "$out.2"
    refused 64 "--output is missing" run-batch -q --model "$demo" -i "$in"
    if [ "$(id -u)" != 0 ]; then
        mkdir -m 555 "$work/fixed"
        refused 77 "fixed/out" run-batch -q --model "$demo" -i "$in" -o "$work/fixed/out"
    fi
fi

# OpenAI's form; what is sampled does not depend on np, nor on who else is in the batch.
fresh
printf '%s\n' '{"custom_id": "o", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "And", "max_tokens": 5, "n": 2}}' \
    '{"custom_id": "l", "method": "POST", "url": "/v1/completions", "body": {"prompt": "And", "max_tokens": 1, "logprobs": 1, "temperature": 0}}' \
    '{"id": "p", "prompt": "And", "max_tokens": 20, "n": 3, "seed": 5}' >"$in"
batch 0
has 1 '"custom_id":"o","response":{"status_code":200,"request_id":'
has 1 '"object":"text_completion"'
has 1 '"usage":{"prompt_tokens":1,"completion_tokens":10,"total_tokens":11}}},"error":null}'
has 2 '"logprobs":{"tokens":["'
[ "$(line 3 | grep -o '"text":"[^"]*"' | sort -u | wc -l)" = 3 ] || fail "three answers, and not all differ"
texts() { grep -o '"text":"[^"]*"' "$out"; } # logprobs may differ in their last digit
texts >"$work/kept"
np_was=$np np=$((np == 1 ? 3 : 1))
batch 0 --force --max-seqs 1
texts | cmp -s - "$work/kept" || fail "np $np_was and np $np: different outputs"
np=$np_was
batch 0 --force --seed 1
texts | cmp -s - "$work/kept" && fail "another seed of the job gives the same"

# What changes the logits, probabilities of the prompt, and answers that share it.
fresh
printf '%s\n' '{"id": "b", "prompt": [0,1106,260,1894,1074], "temperature": 0, "logit_bias": {"77": 1000}, "max_tokens": 3}' \
    '{"id": "a", "prompt": [0,1106,260,1894,1074], "temperature": 9, "allowed_token_ids": [12, 9, 12], "max_tokens": 20, "ignore_eos": true}' \
    '{"id": "w", "prompt": [0,1106,260,1894,1074], "temperature": 0, "bad_words": ["Israel", "the children"], "max_tokens": 24, "ignore_eos": true}' \
    '{"id": "d", "prompt": [0,1106,260,1894,1074], "temperature": 0, "detokenize": false, "max_tokens": 2}' \
    '{"id": "p", "prompt": [0,1106,260,1894,1074], "prompt_logprobs": 2, "logit_bias": null, "max_tokens": 1, "n": 2}' \
    '{"id": "x", "prompt": "x", "logit_bias": {"a": 1}}' '{"id": "y", "prompt": "x", "allowed_token_ids": []}' \
    '{"id": "z", "prompt": "x", "allowed_token_ids": [4000]}' >"$in"
batch 3 --summary "$work/summary"
has 1 '"token_ids":[77,77,77]'
[ "$(line 2 | sed 's/.*"token_ids":\[\([0-9,]*\)\].*/\1/' | tr , '\n' | sort -u | tr '\n' ' ')" = "12 9 " ] || fail "allowed ids: $(line 2)"
line 3 | grep -q "Israel\|the children" && fail "bad words: $(line 3)"
has 3 'of the '
has 4 '"text":null,"token_ids":[269,260]'
has 5 '"prompt_logprobs":[null,{"id":1106,'
[ "$(line 5 | grep -o '"logprob":-' | wc -l)" = 12 ] || fail "4 tokens of a prompt with 2 alternatives each: 12 logprobs"
has 6 'logit_bias: a is no token id'
has 7 'allows none'
has 8 'id 4000 at index 0'
grep -q '"hit_tokens":5,' "$work/summary" || fail "two answers to a prompt of 5 tokens: $(cat "$work/summary")"

# The prompt before the output, as scoring asks for it; probabilities of all ids.
fresh
printf '%s\n' '{"id": "e", "prompt": "In the beginning", "temperature": 0, "max_tokens": 3, "echo": true}' \
    '{"id": "i", "prompt": [0,1106,260,1894,1074], "temperature": 0, "max_tokens": 3, "echo": true, "logprobs": 0, "n": 2}' \
    '{"custom_id": "o", "method": "POST", "url": "/v1/completions", "body": {"prompt": [0,1106,260,1894,1074], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true}}' \
    '{"id": "p", "prompt": [0,1106,260,1894,1074], "temperature": 0, "max_tokens": 1, "logprobs": 1, "prompt_logprobs": 1}' \
    '{"id": "a", "prompt": [0,1106,260,1894,1074], "temperature": 0, "max_tokens": 2, "logprobs": -1}' \
    '{"id": "b", "prompt": [0,1106,260,1894,1074], "temperature": 0, "max_tokens": 2, "logprobs": 20, "presence_penalty": 1}' \
    '{"id": "c", "prompt": [0,1106,260,1894,1074], "max_tokens": 2, "logprobs": -1, "top_p": 0.9, "seed": 3, "ignore_eos": true}' \
    '{"id": "x", "prompt": "x", "echo": true, "logprobs": -1}' '{"id": "y", "prompt": "x", "logprobs": 21}' \
    '{"custom_id": "u", "url": "/v1/embeddings", "body": {"prompt": "x"}}' '{"id": "k", "prompt": "x", "logit_bias": {"1": "a"}}' \
    '{"id": "m", "prompt": "x", "bad_words": ["a", 1]}' '{"id": "n", "prompt": "x", "bad_words": "a"}' >"$in"
awk 'BEGIN { printf "{\"id\": \"q\", \"prompt\": \"x\", \"bad_words\": [\"a\""; while (++n < 513) printf ", \"a%d\"", n; print "]}" }' >>"$in"
batch 3
has 1 '"text":"In the beginning'
has 2 '"text":"In the beginning of the reign"'
has 2 '"token_ids":[0,1106,260,1894,1074,'
has 2 '"logprobs":[null,{"id":1106,'
[ "$(line 2 | grep -o '"logprob":-' | wc -l)" = 14 ] || fail "two answers, of 4 tokens behind the first and 3 more each: 14 logprobs"
line 2 | grep -q prompt_logprobs && fail "prompt_logprobs were not asked for: $(line 2)"
# Line 4 is the same request, in the form that the test of the engine holds against teacher forcing.
values() { line "$1" | grep -o "$2" | head -n 1 | grep -o -- '-[0-9.e-]*' | tr '\n' ' '; }
echoed=$(values 3 '"token_logprobs":\[null,[^]]*')
[ "$(echo "$echoed" | wc -w)" = 5 ] || fail "token_logprobs: $(line 3)"
asked=$(line 4 | sed 's/,"top":\[[^]]*\]//g' | grep -o '"logprob":-[0-9.e-]*' | cut -d: -f2 | tr '\n' ' ')
[ "$(echo $echoed | tr ' ' '\n' | sort)" = "$(echo $asked | tr ' ' '\n' | sort)" ] || fail "echoed $echoed, asked for $asked"
line 3 | grep -q '"tokens":\["[^"]*","[^"]*","[^"]*","[^"]*","[^"]*","[^"]*"\]' || fail "tokens: $(line 3)"
line 3 | grep -q '"top_logprobs":\[null,{' || fail "top_logprobs: $(line 3)"
# All ids, in order, with a mass of one; the first of them are those of "logprobs": 20.
tops() { # tops LINE TOKEN: id and logprob, a line each
    line "$1" | sed 's/"top":/\n&/g' | sed 1d | sed -n "$2{s/}\]}.*/}/p}" | grep -o '"id":[0-9]*,\|"logprob":[0-9.e-]*}' | cut -d: -f2 |
        tr -d ',}' | paste -d ' ' - -
}
for i in 5 7; do
    for token in 1 2; do
        tops $i $token | awk 'NR > 1 && $2 > last { bad = 1 } { last = $2; sum += exp($2); seen[$1]++ }
            END { for (id in seen) n += seen[id] == 1; exit !(NR == 2048 && n == NR && !bad && sum > 0.9999 && sum < 1.0001) }' ||
            fail "line $i, token $token: no distribution over all ids"
    done
done
tops 5 1 | head -n 20 | cut -d ' ' -f 1 >"$work/kept"
tops 6 1 | cut -d ' ' -f 1 | cmp -s - "$work/kept" || fail "the 20 most probable of all are not those of logprobs 20"
has 8 'echo with logprobs of all ids'
has 9 'logprobs: 21 is outside -1 to 20'
has 10 'url /v1/embeddings; fix: give /v1/completions'
has 11 'logit_bias of 1 is no number'
has 12 'bad_words[1] is no text'
has 13 'bad_words is no list'
has 14 '513 bad words; fix: at most 512'

# Bad lines get a record each, and do not stop the others.
fresh
{
    printf '\357\273\277%s\r\n' '{"id": "a", "prompt": "x", "max_tokens": 1}'
    printf '%s\n' '' '{"id": "b", "prompt": "x", "max_token": 1}' '{"id": "a", "prompt": "x"}' '{"id": "c"' '[1]' '{"id": "d"}' \
        '{"id": "e", "prompt": ""}' '{"id": "f", "prompt": [1, -1]}' '{"id": "g", "prompt": [1, 2048]}' '{"id": "h", "prompt": [1.5]}' \
        '{"id": "i", "prompt": "x", "max_tokens": "10"}' '{"id": "j", "prompt": "x", "max_tokens": 0}' \
        '{"id": "k", "prompt": "x", "max_tokens": 9223372036854775808}' '{"id": "l", "prompt": "x", "temperature": 1e400}' \
        '{"id": "m", "prompt": "x", "temperature": NaN}' '{"id": "n", "prompt": "x", "seed": -1}' '{"id": "o", "prompt": "x", "top_p": 0, "top_p": 1}' \
        '{"id": "p", "prompt": "x", "stop": [""]}' '{"id": "q", "prompt": "x", "best_of": 2}' '{"id": 7, "prompt": "x"}' \
        '{"custom_id": "r", "url": "/v1/chat/completions", "body": {"messages": []}}' '{"id": "s", "prompt": "x", "min_tokens": 17}'
    printf '{"id": "t", "prompt": "\303("}\n{"id": "u", "prompt": "a\000"}\n{"id": "v", "prompt": "x", "max_tokens": 1e0}'
} >"$in"
batch 3 --summary "$work/summary"
[ "$(wc -l <"$out")" = 26 ] || fail "26 lines in, $(wc -l <"$out") out"
[ "$(grep -c '"error":{' "$out")" = 24 ] || fail "24 bad lines, $(grep -c '"error":{' "$out") error records"
n=2
while read -r text; do
    has $n "$text"
    has $n '"code":"'
    n=$((n + 1))
done <<'END'
line 2: empty
did you mean max_tokens?
id a comes again
line 5, byte 11: a comma or }
not an object
no prompt
the prompt has no tokens
prompt[1] is no token id
id 2048 at index 1
prompt[0] is no token id
max_tokens: \"10\" is not an integer
max_tokens: 0 is outside 1 to 2147483647
max_tokens: 9223372036854775808 is outside
temperature: inf is outside 0 to 1000
line 16, byte 43: a value was expected
seed: -1 is outside 0 to
field \"top_p\" comes twice
stop string 0 is empty
best_of is not supported
id: 7 is not a string
needs a chat template
min_tokens 17
line 24, byte 24: invalid UTF-8
line 25, byte 25: a NUL byte
END
has 22 '"custom_id":"r","response":null,"error":{"code":"DATA"'
has 26 '"id":"v","text":"'
grep -q '"requests":26' "$work/summary" && grep -q '"failed":24' "$work/summary" || fail "summary: $(cat "$work/summary")"
grep -q 'error\[PARTIAL\]: 24 of 26 requests failed' "$work/err" || fail "no closing line"
# No other file makes way for a summary, but for --force; an older one does.
cp "$work/summary" "$work/older"
echo '{"finished": 1}' >"$work/summary"
refused 73 "summary is there and is no summary; output; fix: " run-batch -q --model "$demo" -i "$in" -o "$out.2" --summary "$work/summary"
[ "$(cat "$work/summary")" = '{"finished": 1}' ] && [ -z "$(find "$work" -name 'out.jsonl.2*' -o -name 'summary.part')" ] || fail "what was no summary"
cp "$work/older" "$work/summary"
batch 3 --force --summary "$work/summary"
echo >"$work/summary"
batch 3 --force --summary "$work/summary"
grep -q '"requests":26' "$work/summary" || fail "--force: no summary"
cp "$out" "$work/kept"
if [ "$np" = 1 ]; then # under mpirun stdin is its own
    "$polylepis" run-batch -q --model "$demo" -i - -o - <"$in" >"$work/out" 2>"$work/err"
    [ $? = 3 ] && cmp -s "$work/out" "$work/kept" || fail "stdin to stdout"
fi
# A line whose id is none takes nobody's: not its own number, which another line gives.
printf '%s\n' '{"id": 5, "prompt": "x"}' '{"id": "0", "prompt": "x", "max_tokens": 1}' '{"id": "2", "custom_id": "a", "prompt": "x"}' \
    '{"id": "a", "prompt": "x", "max_tokens": 1}' '{"id": "4", "prompt": ""}' '{"id": "4", "prompt": "x"}' '{"prompt": ""}' \
    '{"id": "6", "prompt": "x"}' >"$in"
batch 3 --force
has 1 '{"id":null,"error":{"code":"DATA","message":"line 1: id: 5 is not a string'
has 2 '{"id":"0","text":"'
has 3 '{"id":null,"error":'
has 4 '{"id":"a","text":"'
has 6 'id 4 comes again'
has 8 'id 6 comes again'
fresh
printf '%s\n' '{"id": "a", "prompt": "x", "max_tokens": 1}' '' >"$in"
refused 65 "line 2: empty" run-batch -q --model "$demo" -i "$in" -o "$out" --strict
[ ! -e "$out.part" ] || fail "--strict: something was begun"
printf '%s\n' '{"id": "a", "prompt": "x", "max_tokens": 1}' '{"id": "b", "prompt": [2048]}' >"$in" # what the engine finds
refused 65 "line 2: prompt: id 2048 at index 0" run-batch -q --model "$demo" -i "$in" -o "$out" --strict --max-seqs 1
fresh
printf '%s\n' '{"id": "a", "prompt": "x", "min_tokens": 20}' >"$in"
refused 65 "line 1: max_tokens 16 with min_tokens 20" run-batch -q --model "$demo" -i "$in" -o "$out" --strict
fresh
printf '%s\n' '{"id": "a", "prompt": "x", "max_tokens": 1}' '{"id": "a", "prompt": "x", "max_tokens": 1}' >"$in"
batch 0 --dup allow
[ "$(line 1)" = "$(line 2)" ] || fail "--dup allow: equal lines, other answers"
fresh
printf '{"id": "long", "prompt": "%01100000d"}\n{"id": "b", "prompt": "x"}\n' 0 >"$in"
batch 3 --max-line-mib 1 --order finished
[ "$(grep -c 'at most 1048576 are read' "$out")" = 1 ] || fail "the limit of a line"
fresh
: >"$in"
batch 0
[ -e "$out" ] && [ ! -s "$out" ] || fail "no lines in, none out"

# Stopped: what is done is kept, and the same command goes on; a command that differs is refused.
fresh
awk 'BEGIN { for (i = 0; i < 60; i++) printf "{\"id\": \"%d\", \"prompt\": [%d, %d], \"max_tokens\": %d, \"ignore_eos\": true}\n", i, i + 3, i, 200 + i }' >"$in"
batch 0 --max-seqs 4
cp "$out" "$work/kept"
begin() { # in the background, until a few lines are finished; leaves $job
    fresh
    "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" run-batch -q --model "$demo" -i "$in" -o "$out" --max-seqs 4 >"$work/out" 2>"$work/err" </dev/null &
    job=$!
    until [ -e "$out" ] || [ "$(cat "$out.part" 2>/dev/null | wc -l)" -ge 4 ] || ! kill -0 $job 2>/dev/null; do sleep 0.02; done
}
stopped() { # stopped CODE WHAT: ends with that code ("": any but 0) before its output is there
    wait "$job"
    rc=$?
    [ "$rc" = "${1:-$rc}" ] && [ "$rc" != 0 ] || fail "$2: exit $rc, want $1"
    [ ! -e "$out" ] && [ "$(wc -l <"$out.part")" -lt 60 ] || fail "$2 came too late"
}
goes_on() { # goes_on WHAT ARGS
    what=$1
    shift
    batch 0 "$@"
    cmp -s "$out" "$work/kept" || fail "$what: another output"
}
begin
kill -s USR1 $job
stopped 75 SIGUSR1
grep -q 'error\[STOPPED\]: stopped by a signal; .* start the same command again' "$work/err" || fail "SIGUSR1: no message"
[ ! -e "$out.lock" ] || fail "SIGUSR1: the lock is left"
refused 78 "temperature 0.5, was 1" run-batch -q --model "$demo" -i "$in" -o "$out" -t 0.5
other_weights "$work/other"
refused 78 "model" run-batch -q --model "$work/other" -i "$in" -o "$out"
head -n 59 "$in" >"$work/less.jsonl"
refused 78 "input" run-batch -q --model "$demo" -i "$work/less.jsonl" -o "$out"
printf torn >>"$out.part"
goes_on SIGUSR1 --max-seqs 7
begin
kill -s TERM $job # mpirun kills what is left a second later
stopped "" SIGTERM
goes_on SIGTERM
begin
kill -s TERM "$(cat "/proc/$job/task/$job/children" | tr ' ' '\n' | grep . | sed -n "${np}p")" # the last rank alone
stopped 75 "SIGTERM to one rank"
goes_on "SIGTERM to one rank"
if [ "$np" = 1 ]; then
    begin
    began=$(date +%s)
    refused 73 "is written by pid $(cut -d ' ' -f 2 "$out.lock") on" run-batch -q --model "$demo" -i "$in" -o "$out"
    wait $job
    if command -v prlimit >/dev/null; then # a file that may not grow any more, as on a full disk
        begin
        prlimit --pid "$(cut -d ' ' -f 2 "$out.lock")" --fsize=8192
        stopped 74 "a full disk"
        grep -q 'error\[IO\]: cannot write .* what is done is kept' "$work/err" || fail "a full disk: no message"
        goes_on "a full disk"
    fi
    begin
    cp "$in" "$work/in"
    echo '{"id": "late", "prompt": "x"}' >>"$in"
    wait $job
    [ $? = 76 ] && [ ! -e "$out" ] && grep -q 'has changed since the job began' "$work/err" || fail "an input that changes"
    mv "$work/in" "$in"
    "$polylepis" run-batch -q --model "$demo" -i - -o "$out" <"$in" >"$work/out" 2>"$work/err"
    [ $? = 78 ] && grep -q 'cannot be resumed' "$work/err" || fail "a stream on another job's journal"
fi

# shellcheck disable=SC2015
[ "$np" = 1 ] || "$source/tools/kill_resume.sh" "$polylepis" "$demo" 2 "$np" "$(date +%s)" >"$work/err" 2>&1 || fail "killed"
finish
