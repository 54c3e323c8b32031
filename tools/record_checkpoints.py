#!/usr/bin/env python3
"""Records the SHA-256 of every band of the test checkpoints, as float32, into tests/data/checkpoints/bands.json.

Reads with the reference safetensors package and slices with numpy, by the layout of the published implementations:
Mamba-2's in_proj holds z, x, B, C, dt, its conv1d x, B, C; Mamba-1's in_proj holds x, z.

    pip install numpy safetensors && tools/record_checkpoints.py
"""
import hashlib
import json
import pathlib

import numpy as np
import safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECKPOINTS = [ROOT / "models/demo", *sorted((ROOT / "tests/data/fixtures").iterdir())]


def to_float32(tensor):
    if tensor["dtype"] == "BF16":
        bits = np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16
        values = bits.view("<f4")
    else:
        values = np.frombuffer(tensor["data"], {"F32": "<f4", "F16": "<f2"}[tensor["dtype"]]).astype("<f4")
    return values.reshape(tensor["shape"])


def load(folder):
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            tensors[name] = to_float32(tensor)
    return tensors


def split(bands, name, kind, parts):
    """Consecutive rows of one tensor; parts: (band, rows)."""
    row = 0
    for band, rows in parts:
        bands[f"{name}/{band}/{kind}"] = (row, row + rows)
        row += rows
    return row


def layer_bands(config, mixer):
    mamba2 = config["model_type"] == "mamba2"
    inner = config.get("intermediate_size", int(config.get("expand", 2) * config["hidden_size"]))
    bc = config["n_groups"] * config["state_size"] if mamba2 else 0
    projections = [("z", inner), ("x", inner), ("B", bc), ("C", bc), ("dt", config["num_heads"])] if mamba2 else [("x", inner), ("z", inner)]
    channels = [("x", inner), ("B", bc), ("C", bc)] if mamba2 else [("x", inner)]
    bands = {}
    for name, parts in (("in_proj", projections), ("conv1d", channels)):
        for kind in ("weight", "bias"):
            tensor = mixer.get(f"{name}.{kind}")
            if tensor is None:
                continue
            rows = {}
            assert split(rows, name, kind, parts) == tensor.shape[0]
            bands.update({band: tensor[a:b] for band, (a, b) in rows.items()})
    plain = {"out_proj.weight": "out_proj/weight", "out_proj.bias": "out_proj/bias", "x_proj.weight": "x_proj/weight", "A_log": "A_log", "D": "D",
             "dt_proj.weight": "dt_proj/weight", "dt_proj.bias": "dt_bias", "dt_bias": "dt_bias", "norm.weight": "gate_norm/weight",
             "dt_layernorm.weight": "dt_norm/weight", "b_layernorm.weight": "B_norm/weight", "c_layernorm.weight": "C_norm/weight"}
    bands.update({band: mixer[name] for name, band in plain.items() if name in mixer})
    return bands


def record(folder):
    config = json.loads((folder / "config.json").read_text())
    tensors = load(folder)
    bands = {"embedding/weight": tensors["backbone.embeddings.weight"], "final_norm/weight": tensors["backbone.norm_f.weight"]}
    if "lm_head.weight" in tensors and not config.get("tie_word_embeddings"):
        bands["lm_head/weight"] = tensors["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"backbone.layers.{layer}."
        mixer = {name[len(prefix) + 6:]: value for name, value in tensors.items() if name.startswith(prefix + "mixer.")}
        bands[f"{layer}/norm/weight"] = tensors[prefix + "norm.weight"]
        bands.update({f"{layer}/{band}": value for band, value in layer_bands(config, mixer).items()})
    return {name: hashlib.sha256(np.ascontiguousarray(value, "<f4").tobytes()).hexdigest() for name, value in sorted(bands.items())}


def main():
    recorded = {folder.name: record(folder) for folder in CHECKPOINTS}
    out = ROOT / "tests/data/checkpoints/bands.json"
    out.write_text(json.dumps(recorded, indent=0) + "\n")
    print(out, sum(map(len, recorded.values())), "bands")


if __name__ == "__main__":
    main()
