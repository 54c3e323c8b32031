#!/usr/bin/env python3
"""random_checkpoint.py SHAPE DIR -- a checkpoint of a published model's shape with random bf16 weights and no tokenizer, for timing what
reads files: `polylepis convert DIR model.h5`, then `polylepis bench --mode load --model model.h5`.  Needs nothing but Python."""
import json
import os
import random
import struct
import sys

# hidden, layers, vocabulary, groups, tied
SHAPES = {
    "mamba2-130m": (768, 24, 50288, 1, True),
    "mamba2-780m": (1536, 48, 50288, 1, True),
    "mamba2-2.7b": (2560, 64, 50288, 1, True),
    "codestral-7b": (4096, 64, 32768, 8, False),
}
HEAD_DIM, STATE, CONV = 64, 128, 4
BLOCK = 4 << 20  # bytes; tensors repeat it, each from another place on


def config(hidden, layers, vocab, groups, tied):
    return {
        "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "dtype": "bfloat16", "hidden_size": hidden,
        "num_hidden_layers": layers, "vocab_size": vocab, "n_groups": groups, "num_heads": 2 * hidden // HEAD_DIM, "head_dim": HEAD_DIM,
        "state_size": STATE, "conv_kernel": CONV, "expand": 2, "chunk_size": 256, "hidden_act": "silu", "layer_norm_epsilon": 1e-5,
        "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": tied, "rms_norm": True,
        "time_step_limit": [0.0, {"__float__": "Infinity"}], "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }


def tensors(hidden, layers, vocab, groups, tied):
    inner, heads, bc = 2 * hidden, 2 * hidden // HEAD_DIM, 2 * groups * STATE
    yield "backbone.embeddings.weight", (vocab, hidden)
    for i in range(layers):
        prefix = f"backbone.layers.{i}."
        yield prefix + "norm.weight", (hidden,)
        yield prefix + "mixer.in_proj.weight", (2 * inner + bc + heads, hidden)
        yield prefix + "mixer.conv1d.weight", (inner + bc, 1, CONV)
        yield prefix + "mixer.conv1d.bias", (inner + bc,)
        yield prefix + "mixer.dt_bias", (heads,)
        yield prefix + "mixer.A_log", (heads,)
        yield prefix + "mixer.D", (heads,)
        yield prefix + "mixer.norm.weight", (inner,)
        yield prefix + "mixer.out_proj.weight", (hidden, inner)
    yield "backbone.norm_f.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocab, hidden)


def main(shape, directory):
    sizes = SHAPES[shape]
    os.makedirs(directory)
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(*sizes), f)
    header, at = {}, 0
    for name, dims in tensors(*sizes):
        count = 2
        for n in dims:
            count *= n
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # The upper byte 0x3c or 0xbc, sign and exponent: magnitudes from 0.0078 to 0.031.
    low = random.Random(1).randbytes(BLOCK // 2)
    block = bytearray(BLOCK)
    block[0::2], block[1::2] = low, low[::-1].translate(bytes(0xBC if b & 1 else 0x3C for b in range(256)))
    block = bytes(block)
    with open(os.path.join(directory, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for index, entry in enumerate(header.values()):
            begin, end = entry["data_offsets"]
            place, left = index * 6700 % BLOCK, end - begin
            while left > 0:
                n = min(left, BLOCK - place)
                f.write(block[place:place + n])
                place, left = 0, left - n


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"{__doc__}\nshapes: {' '.join(SHAPES)}")
    main(*sys.argv[1:])
