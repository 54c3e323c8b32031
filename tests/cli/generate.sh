#!/bin/sh
# generate.sh POLYLEPIS NP SOURCE -- what comes out of the demonstration model, in all the ways in which it can be asked for.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

# The `greedy` of tests/data/demo/golden-0.safetensors, which an implementation that is not ours computed.
want=269,260,1259,269,260,561,269,488,12,270,269,260,561,269,1945,1799,12,270,269,260,432,303,969,269,1246,486,1818,14,199,313,807,1066,1275,12,270,289
want=$want,355,12,270,289,412,694,12,270,289,260,1206,12
ids() { sed -n 's/.*"token_ids":\[\([0-9,]*\)\],"prompt.*/\1/p' "$work/out"; }
text() { sed -n 's/.*"text":"\(\([^"\\]\|\\.\)*\)".*/\1/p' "$work/out"; }
generate() {
    run generate --model "$demo" -q "$@"
    [ "$rc" = 0 ] || fail "generate $*: exit $rc"
}

generate --prompt-token-ids 0,1106,260,1894,1074 -n 48 --ignore-eos --json
[ "$(ids)" = "$want" ] || fail "golden-0: got $(ids)"
whole=$(text)
for slice in 1 2 3; do # a prompt in slices
    generate --prompt "In the beginning" --add-bos -n 48 --ignore-eos --json --max-batch-tokens $slice
    [ "$(ids)" = "$want" ] || fail "slices of $slice: got $(ids)"
done
printf 'In the beginning' >"$work/prompt"
generate --prompt-file "$work/prompt" --add-bos -n 48 --ignore-eos # streamed text is the text
[ "$(sed ':a;N;$!ba;s/\n/\\n/g' "$work/out")" = "$whole" ] || fail "streamed text differs from --json's"
cp "$work/out" "$work/kept"
mkfifo "$work/pipe" # a prompt that is no file
for from in - "$work/pipe"; do
    { [ "$from" = - ] || exec >"$work/pipe"; sleep 0.7 && cat "$work/prompt"; } |
        "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" generate --model "$demo" -q -f "$from" --add-bos -n 48 --ignore-eos >"$work/out" 2>"$work/err"
    cmp -s "$work/out" "$work/kept" || fail "a prompt from $from: $(cat "$work/out" "$work/err")"
done

# Ends: a stop string is not printed, nor is what follows; ids; the stop token 0 of the model (golden-2 meets it at 33 tokens).
generate --prompt "In the beginning" --add-bos --stop "Zion" --stop "Israel," --json
[ "$(text)" = " of the reign of the children of " ] || fail "stop string: text is '$(text)'"
grep -q '"finish_reason":"stop","stop_reason":"Israel,"' "$work/out" || fail "stop string: reason"
generate --prompt "In the beginning" --add-bos --stop-token-ids 12,9 --json
[ "$(ids)" = 269,260,1259,269,260,561,269,488,12 ] || fail "stop id: got $(ids)"
grep -q '"stop_reason":12,' "$work/out" || fail "stop id: reason"
generate --prompt "hacker n." --add-bos --json
case $(ids) in *,587,0) ;; *) fail "end of text: got $(ids)" ;; esac
generate --prompt "hacker n." --add-bos --min-tokens 40 -n 50 --json
case ,$(ids), in *,0,*) fail "min-tokens: got $(ids)" ;; esac

# Seeded sampling, the same whatever np; without a seed one is reported.
sampled='generate --prompt "And the LORD said" -n 40 --temperature 0.9 --top-k 50 --top-p 0.95 --seed 7 --json'
eval "$sampled"
first=$(ids)
np_was=$np np=1
eval "$sampled"
[ -n "$first" ] && [ "$(ids)" = "$first" ] || fail "sampled at np $np_was: $first, at np 1: $(ids)"
np=$np_was
generate --prompt "And the LORD said" -n 40 --temperature 0.9 --seed 8 --json
[ "$(ids)" != "$first" ] || fail "another seed gives the same tokens"
run generate --model "$demo" --prompt a -n 2 -t 1
grep -q -e '--seed [0-9]' "$work/err" || fail "the seed is not reported"
grep -q 'prefill: .* tokens/s; decode: .* tokens/s' "$work/err" || fail "no closing line"

# A value that looks like a request for help is a value.
for value in --help -h; do
    generate --prompt="$value" -n 2 --json
    first=$(ids)
    generate --prompt "$value" -n 2 --json
    [ -n "$first" ] && [ "$(ids)" = "$first" ] || fail "--prompt $value: $(head -n 1 "$work/out")"
done
run generate --prompt a --no-such-option --help
[ "$rc" = 0 ] && grep -q '^Usage: polylepis generate' "$work/out" || fail "--help behind an unknown option: exit $rc"

generate --prompt "In the beginning" -n 3 --json --logprobs 2
[ "$(grep -o '"logprob":-' "$work/out" | wc -l)" = 9 ] || fail "3 tokens with 2 alternatives each: 9 logprobs"

# What all ranks find in a checkpoint is said once, and by no rank in particular.
mkdir "$work/odd"
cp "$demo"/* "$work/odd"
sed -i '1s/{/{ "auto_map": {},/' "$work/odd/config.json"
sed -i 's/"truncation": null/"truncation": {}/' "$work/odd/tokenizer.json"
run generate --model "$work/odd" -q -p a -n 1
[ "$rc" = 0 ] || fail "a checkpoint with code: exit $rc"
for what in "auto_map is ignored" "truncation is ignored"; do
    [ "$(grep -c "^warning: .*$what" "$work/err")" = 1 ] && [ "$(grep -c "$what" "$work/err")" = 1 ] || fail "\"$what\" is not said once"
done

# A tokenizer that is not supported: ids do without it, and whoever gives text is told.
cp "$demo/tokenizer.json" "$work/odd"
sed -i 's/"normalizer": null/"normalizer": { "type": "BertNormalizer" }/' "$work/odd/tokenizer.json"
run generate --model "$work/odd" -q --prompt-token-ids 0,1106,260,1894,1074 -n 9 --ignore-eos --json
[ "$rc" = 0 ] && [ "$(ids)" = 269,260,1259,269,260,561,269,488,12 ] && grep -q '"text":null' "$work/out" || fail "ids without a tokenizer: exit $rc"
[ "$(grep -c "^warning: .*$work/odd/tokenizer.json: normalizer: BertNormalizer is not supported" "$work/err")" = 1 ] || fail "no warning of it"
refused 64 "the model's tokenizer is not supported" generate --model "$work/odd" -q -p a --json
refused 64 "no tokenizer that is supported" generate --model "$work/odd" -q --prompt-token-ids 1
"$polylepis" inspect "$work/odd" 2>"$work/err" | grep -q '^tokenizer  *not supported' || fail "inspect: a tokenizer that is not supported"
printf '{"prompt": [0,1106,260,1894,1074], "temperature": 0, "max_tokens": 2}\n{"prompt": "x"}\n' >"$in"
run_through run-batch -q --model "$work/odd" -i "$in" -o "$out"
[ "$rc" = 3 ] || fail "run-batch without a tokenizer: exit $rc"
has 1 '"token_ids":[269,260]'
has 2 "the model's tokenizer is not supported"
finish
