#!/bin/sh
# contract.sh POLYLEPIS NP SOURCE -- what is refused is refused with the right exit code and in one line, whichever rank meets it.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
quiet_demo="--model $demo -q"

# The command line, before anything is read.
refused 64 "no command"
refused 64 "did you mean generate?" generat --model "$demo"
refused 64 "unknown command zzz" zzz
refused 64 "did you mean --max-tokens?" generate --model "$demo" --prompt a --max-token 3
refused 64 "from 0 to 1" generate --model "$demo" --prompt a --top-p 2
refused 64 "an integer from 1 to" generate --model "$demo" --prompt a -n 2x
refused 64 "one of auto|cpu|cuda" generate --model "$demo" --prompt a --device gpu
refused 64 "unknown command zzz" help zzz
refused 64 "--describe csh; command line; fix: one of bash|zsh|man" --describe csh
refused 64 "--describe: its value is missing" --describe
refused 64 "unexpected argument man" --describe bash man
refused 64 "--model with --shape" verify --model "$demo" --shape mamba2-130m
refused 64 "--csv with --mode throughput" bench --shape mamba2-130m --mode throughput --csv
refused 64 "--json with --csv" bench --shape mamba2-130m --json --csv
refused 64 "--rate has no say in --mode collectives" bench --mode collectives --rate 5
refused 64 "--max-batch-tokens 8 is less than --batch 9" bench --shape mamba2-130m --mode throughput --batch 1,9 --max-batch-tokens 8
refused 64 "--batch 1,: number 2" bench --shape mamba2-130m --batch 1,
refused 64 "--input-len  1:3" bench --shape mamba2-130m --mode throughput --input-len " 1:3"
refused 73 "--diag $work/missing/d" generate --model "$demo" -q --prompt a --diag "$work/missing/d"
refused 64 "its value is missing" generate --model "$demo" --prompt
refused 64 "--model is missing" generate --prompt a
refused 64 "0 prompts" generate --model "$demo"
refused 64 "2 prompts" generate --model "$demo" --prompt a --prompt-token-ids 1
for command in generate run-batch; do # half of an e with an acute accent: JSON with it could not be read again
    refused 64 "--stop a?: invalid UTF-8; command line; fix: give text in UTF-8" $command --model "$demo" --stop "$(printf 'a\303')"
done
refused 64 "unexpected argument" generate --model "$demo" --prompt a b
refused 64 "of 2" convert "$demo"
# What a command would not heed it does not take.
for command in logits perplexity verify; do
    refused 64 "unknown option --prefix-cache" $command --model "$demo" --prefix-cache all --cache-block 7
done
refused 64 "unknown option --max-slice" perplexity --model "$demo" --max-slice 16
refused 64 "--max-batch-tokens has no say" verify --model "$demo" --max-batch-tokens 16
refused 64 "--prefix-cache" bench --shape mamba2-130m --prefix-cache all
refused 64 "--cache-memory without --prefix-cache" run-batch --model "$demo" -i "$work/in" -o "$work/out.jsonl" --cache-memory 7
refused 64 "--cache-block 7" generate --model "$demo" -q --prompt a --prefix-cache all --cache-block 7
# Standard output, where a file takes its name in the end.
refused 64 "--output -: standard output cannot be it" logits --model "$demo" -i "$work/in" -o -
refused 64 "the output -: standard output" convert "$demo" -
refused 64 "--summary -: standard output" run-batch --model "$demo" -i "$work/in" -o - --summary -
refused 64 "--canary -: standard output" run-batch --model "$demo" -i "$work/in" -o - --canary -
refused 64 "--output is missing" logits --model "$demo" -i "$work/in"
# shellcheck disable=SC2086 # words
{
    # Requests.
    refused 65 "the prompt has no tokens" generate $quiet_demo --prompt ""
    refused 65 "id 2048 at index 1" generate $quiet_demo --prompt-token-ids 1,2048
    refused 64 "min_tokens 9" generate $quiet_demo --prompt a -n 3 --min-tokens 9
    refused 66 "$work/none" generate $quiet_demo --prompt-file "$work/none"
    refused 65 "not a regular file" generate $quiet_demo --prompt-file /dev/null
    for file in --prompt-file --load-state; do # before the model is loaded
        refused 66 "$work/none" generate --model "$demo" $file "$work/none"
        ! grep -q loading "$work/err" || fail "$file: missed when the model was loaded"
    done

    # Models.
    refused 66 "$work/none" generate --model "$work/none" --prompt a
    echo garbage >"$work/garbage"
    refused 65 "$work/garbage" generate --model "$work/garbage" --prompt a
    cp -r "$demo" "$work/cut" && truncate -s -1000 "$work/cut/model.safetensors"
    refused 65 "model.safetensors" generate --model "$work/cut" --prompt a

    # What is broken is named with its folder, and what to do about it.
    mkdir "$work/odd" && cp "$demo"/* "$work/odd"
    : >"$work/odd/config.json"
    refused 65 "$work/odd/config.json: byte 0: unexpected end of data; fix: " generate -m "$work/odd" -q -p a
    sed 's/"head_dim": 32/"head_dim": 33/' "$demo/config.json" >"$work/odd/config.json"
    refused 65 "inner is 512; fix: " generate -m "$work/odd" -q -p a
    sed 's/"layer_norm_epsilon": 1e-05/"layer_norm_epsilon": 0/' "$demo/config.json" >"$work/odd/config.json"
    refused 65 "$work/odd/config.json: config: norm_eps 0 is outside (0, 1); fix: " generate -m "$work/odd" -q -p a
    rm "$work/odd/model.safetensors" && mkdir "$work/odd/model.safetensors"
    refused 65 "model.safetensors: not a regular file; fix: " generate -m "$work/odd" -q -p a
    [ "$np" = 1 ] || refused 64 "--comm nccl needs --device cuda; fix: " generate $quiet_demo -p a --device cpu --comm nccl

    # Jobs: nothing stays behind.
    printf '{"id": "a", "prompt": [1]}\n{"id": "a", "prompt": [2]}\n' >"$work/twice.jsonl"
    printf '{"id": "a", "prompt": [1]}\n{"id": "b", "prompt": [1,\n' >"$work/torn.jsonl"
    printf '{"id": "../a", "prompt": [1]}\n' >"$work/path.jsonl"
    printf '{"id": "a", "prompt": 7}\n' >"$work/number.jsonl"
    printf '{"prompt": [1], "max_token": 7}\n' >"$work/field.jsonl"
    printf '{"prompt": [1]}\n\n{"prompt": "x"}\n{"prompt": [1, 2048]}\n' >"$work/far.jsonl"
    printf '{"id": "a", "prompt": [1], "prompt": [2]}\n' >"$work/fields.jsonl"
    printf '{"id": "a", "custom_id": "b", "prompt": [1]}\n' >"$work/names.jsonl"
    refused 65 'field "prompt" comes twice' logits $quiet_demo -i "$work/fields.jsonl" -o "$work/l.h5"
    refused 65 "id and custom_id" logits $quiet_demo -i "$work/names.jsonl" -o "$work/l.h5"
    # What shows in the lines is found before the model is opened; all of it before anything is computed.
    refused 65 "twice.jsonl line 2: id a comes twice" logits --model "$work/none" -q -i "$work/twice.jsonl" -o "$work/l.h5"
    refused 65 "torn.jsonl line 2" logits $quiet_demo -i "$work/torn.jsonl" -o "$work/l.h5"
    refused 65 "path.jsonl line 1: id ../a cannot name an HDF5 group" logits --model "$work/none" -q -i "$work/path.jsonl" -o "$work/l.h5"
    refused 65 "field.jsonl line 1: unknown field max_token; fix: did you mean max_tokens?" logits --model "$work/none" -q -i "$work/field.jsonl" -o "$work/l.h5"
    refused 65 "far.jsonl line 4: prompt: id 2048 at index 1" logits $quiet_demo -i "$work/far.jsonl" -o "$work/l.h5"
    refused 65 "prompt" logits $quiet_demo -i "$work/number.jsonl" -o "$work/l.h5"
    refused 73 "missing/l.h5" logits $quiet_demo -i "$work/torn.jsonl" -o "$work/missing/l.h5"
    refused 73 "exists" logits $quiet_demo -i "$work/torn.jsonl" -o "$work/twice.jsonl"
    refused 73 "is an input" logits $quiet_demo -i "$work/torn.jsonl" -o "$work/torn.jsonl"
    cp "$work/number.jsonl" "$work/l2.h5.part"
    refused 73 "l2.h5.part is an input" logits $quiet_demo -i "$work/l2.h5.part" -o "$work/l2.h5"
    [ ! -e "$work/l.h5" ] && [ ! -e "$work/l.h5.part" ] || fail "a job that failed left a file"
    refused 65 "fewer than a window" perplexity $quiet_demo --text "$work/garbage"
    refused 65 "safetensors" convert "$work/cut" "$work/c.h5"
    [ ! -e "$work/c.h5" ] || fail "a conversion that failed left a file"
}

# No output is an input, and --force does not make it one.
cp -r "$demo" "$work/own" && "$polylepis" convert -q "$demo" "$work/own.h5" && echo '{"id": "a", "prompt": [1]}' >"$work/own.jsonl"
cp "$work/own.jsonl" "$work/s.part" && printf '{"format":"polylepis run-batch 1","version":"0"}\n' >"$work/j.part"
inputs() { cksum "$work/own"/* "$work/own.h5" "$work/own.jsonl" "$work/s.part" "$work/j.part"; }
inputs >"$work/kept"
own="--model $work/own.h5 -q -i $work/own.jsonl"
# shellcheck disable=SC2086 # words
{
    refused 73 "is an input" convert "$work/own" "$work/own/model.safetensors" --force
    refused 73 "is an input" convert "$work/own.h5" "$work/own.h5" --force
    refused 73 "is an input" logits $own -o "$work/own.h5" --force
    refused 73 "is an input" logits $own -o "$work/own.jsonl" --force
    refused 73 "is an input" run-batch $own -o "$work/own.h5" --force
    refused 73 "is an input" run-batch $own -o "$work/o.jsonl" --summary "$work/own.h5"
    refused 73 "is an input" run-batch $own -o "$work/o.jsonl" --summary "$work/own.jsonl"
    refused 73 "is the job's own" run-batch $own -o "$work/o.jsonl" --summary "$work/o.jsonl"
    refused 73 "is the job's own" run-batch $own -o "$work/o.jsonl" --canary "$work/o.jsonl.tmp"
    refused 73 "is the summary's" run-batch $own -o "$work/o.jsonl" --canary "$work/s" --summary "$work/s"
    refused 73 "is an input" convert "$work/own" "$work/own/tokenizer_config.json"
    refused 73 "is an input" generate --model "$work/own.h5" -q --prompt a --save-state "$work/own.h5"
    refused 73 "is an input" generate --model "$work/own.h5" -q --prompt-file "$work/own.jsonl" --save-state "$work/own.jsonl"
    refused 73 "missing/s" generate $quiet_demo --prompt a --save-state "$work/missing/s"
    refused 73 "is an input" run-batch $own -o "$work/o.jsonl" --canary "$work/own.jsonl"
    refused 73 "is the job's own" run-batch $own -o "$work/o.jsonl" --summary "$work/./o.jsonl"
    # Nor is its NAME.part, nor what a batch job goes on from.
    refused 73 "s.part is an input" generate $quiet_demo --load-state "$work/s.part" --save-state "$work/s"
    refused 73 "s.part is an input" run-batch --model "$work/own.h5" -q -i "$work/s.part" -o "$work/o.jsonl" --summary "$work/s"
    refused 73 "j.part is a batch job that has not finished" logits $own -o "$work/j"
    refused 73 "j.part is a batch job that has not finished" convert "$demo" "$work/j" --force
}
inputs | cmp -s - "$work/kept" || fail "an input was written to"
[ -z "$(find "$work" -name 'o.jsonl*')" ] || fail "a job that was refused left a file"

# One rank alone: another model path, other options, another prompt file.  The others must not wait for it.
apart() {
    code=$1 text=$2 one=$3 two=$4
    began=$(date +%s)
    # shellcheck disable=SC2086 # words
    "${MPIEXEC:-mpirun}" -np 1 "$polylepis" $one : -np 1 "$polylepis" $two >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    check_refused "$code" "$text" "$one : $two"
}
apart 66 "$work/none" "generate $quiet_demo --prompt a" "generate --model $work/none -q --prompt a"
apart 64 "did you mean" "generate $quiet_demo --prompt a" "generate $quiet_demo --promt a"
apart 76 "another command" "generate $quiet_demo --prompt a" "inspect $demo"
apart 76 "another --state-dtype than rank 0: bf16, rank 0 auto" "generate $quiet_demo --prompt a" "generate $quiet_demo --prompt a --state-dtype bf16"
apart 76 "another --prompt-token-ids than rank 0: 1,2, rank 0 1,2,3" "generate $quiet_demo --prompt-token-ids 1,2,3" "generate $quiet_demo --prompt-token-ids 1,2"
apart 76 "another --top-k than rank 0: 3, rank 0 default" "generate $quiet_demo --prompt a --seed 1" "generate $quiet_demo --prompt a --seed 1 --top-k 3"
apart 76 "another --max-tokens than rank 0: 6, rank 0 5" "generate $quiet_demo --prompt a -n 5" "generate $quiet_demo --prompt a -n 6"
apart 76 "another --save-state than rank 0: a path, rank 0 not given" "generate $quiet_demo --prompt a" "generate $quiet_demo --prompt a --save-state $work/s"
apart 76 "another --watchdog" "generate $quiet_demo --prompt a --watchdog 0" "generate $quiet_demo --prompt a"
apart 76 "another --windows" "perplexity $quiet_demo --text $work/garbage" "perplexity $quiet_demo --text $work/garbage --windows 1"
apart 76 "another --batch" "bench --shape mamba2-130m --batch 1 --mode collectives" "bench --shape mamba2-130m --batch 2 --mode collectives"
apart 76 "another --canary" "run-batch $quiet_demo -i $work/own.jsonl -o $work/o.jsonl" "run-batch $quiet_demo -i $work/own.jsonl -o $work/o.jsonl --canary $work/c"
# What is a rank's own, and names that only one of them looks at.
"$polylepis" generate $quiet_demo --prompt a -n 2 >"$work/kept" 2>/dev/null
echo a | tr -d '\n' >"$work/prompt"
"${MPIEXEC:-mpirun}" -np 1 "$polylepis" generate $quiet_demo -n 02 -f "$work/prompt" : -np 1 "$polylepis" generate --model "$demo" -n 2 \
    -f "$work/none" --threads 2 --device cpu --diag "$work/diag" >"$work/out" 2>"$work/err" </dev/null || fail "options that may differ"
cmp -s "$work/out" "$work/kept" || fail "options that may differ: another text"
"$polylepis" convert "$demo" "$work/demo.h5" 2>/dev/null || fail "convert"
"$polylepis" convert "$work/demo.h5" "$work/anew.h5" 2>/dev/null || fail "convert: a model file, written anew"
apart 76 "another model file" "generate $quiet_demo --prompt a" "generate --model $work/demo.h5 -q --prompt a"
other_weights "$work/other"
apart 76 "another model file" "generate $quiet_demo --prompt a" "generate --model $work/other -q --prompt a"

# Without a launcher, and where Slurm started N programs that know nothing of each other.
began=$(date +%s)
SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 "$polylepis" generate --model "$demo" --prompt a >"$work/out" 2>"$work/err"
rc=$?
check_refused 64 "srun --mpi=pmix" "a singleton in a Slurm step"
finish
