#!/usr/bin/env python3
"""Records tests/data/fixtures/mamba1-norms: a small random Mamba-1 whose norms of dt, B and C have weights, and what it answers.

    python3 -m venv VENV && VENV/bin/pip install torch transformers==5.24.0 safetensors
    VENV/bin/python tools/record_mixer_norms.py

The mixer is Hugging Face's of Jamba, in float64 and step by step, in the plain stack of Mamba: norm, mixer, residual; a final norm; a head of
its own, for a tied one answers with the token it is asked.  Then tools/record_checkpoints.py.  golden.safetensors is as in the other fixtures: input_ids (2, 70), logits (2, 70, vocabulary), greedy (2, 16).
"""
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.jamba.configuration_jamba import JambaConfig
from transformers.models.jamba.modeling_jamba import JambaMambaMixer, JambaRMSNorm

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/fixtures/mamba1-norms"
HIDDEN, LAYERS, STATE, CONV, DT_RANK, VOCAB = 40, 3, 8, 4, 5, 96
INNER, EPS = 2 * HIDDEN, 1e-5
MIXER_EPS = 1e-2  # large enough that another one would be seen
BATCH, TOKENS, STEPS, SEED = 2, 70, 16, 20240607


class Layer(torch.nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.norm = JambaRMSNorm(HIDDEN, eps=EPS)
        self.mixer = JambaMambaMixer(config, index)

    def forward(self, x):
        return x + self.mixer(self.norm(x))


class Backbone(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = torch.nn.Embedding(VOCAB, HIDDEN)
        self.layers = torch.nn.ModuleList(Layer(config, i) for i in range(LAYERS))
        self.norm_f = JambaRMSNorm(HIDDEN, eps=EPS)


class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.backbone = Backbone(config)
        self.lm_head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, ids):
        x = self.backbone.embeddings(ids)
        for layer in self.backbone.layers:
            x = layer(x)
        return self.lm_head(self.backbone.norm_f(x))


def draw(name, shape, random):
    """Values of a tensor, float32."""
    def uniform(low, high):
        return low + (high - low) * torch.rand(shape, generator=random, dtype=torch.float64)

    if name.endswith("layernorm.weight"):
        return uniform(0.3, 2.0)
    if "norm" in name:
        return uniform(0.7, 1.3)
    if name.endswith("A_log"):
        return torch.log(torch.arange(1, STATE + 1, dtype=torch.float64)) + uniform(-0.2, 0.2)
    if name.endswith(".D"):
        return uniform(0.5, 1.5)
    if name.endswith("dt_proj.bias"):
        dt = torch.exp(uniform(-6.9, -2.3))
        return dt + torch.log(-torch.expm1(-dt))
    if name.endswith("conv1d.weight"):
        return uniform(-0.9, 0.9)
    if name.endswith("bias"):
        return uniform(-0.2, 0.2)
    width = 1 if "embeddings" in name else shape[-1]
    return torch.randn(shape, generator=random, dtype=torch.float64) / width**0.5


def main():
    random = torch.Generator().manual_seed(SEED)
    model = Model(JambaConfig(hidden_size=HIDDEN, mamba_d_state=STATE, mamba_d_conv=CONV, mamba_expand=2, mamba_dt_rank=DT_RANK,
                              mamba_conv_bias=True, mamba_proj_bias=False, rms_norm_eps=MIXER_EPS, use_associative_scan=False,
                              use_mambapy=False)).eval()
    weights = {name: draw(name, tuple(p.shape), random).float() for name, p in sorted(model.named_parameters())}
    model.load_state_dict(weights)
    model.double()
    ids = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=random)
    with torch.no_grad():
        logits = model(ids)
        text, closest = ids, float("inf")
        for _ in range(STEPS):
            last = model(text)[:, -1]
            best = last.topk(2).values
            closest = min(closest, (best[:, 0] - best[:, 1]).min().item())
            text = torch.cat([text, last.argmax(-1, keepdim=True)], 1)
        for layer in model.backbone.layers:  # what would be computed without them is something else
            for norm in (layer.mixer.dt_layernorm, layer.mixer.b_layernorm, layer.mixer.c_layernorm):
                norm.weight.fill_(1)
        weightless = (model(ids) - logits).abs().max().item()
    assert closest > 1e-3 and weightless > 0.1 * logits.abs().max().item()
    assert all(len(set(row)) > STEPS // 2 for row in text[:, TOKENS:].tolist())

    config = {
        "architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": CONV, "dtype": "float32", "eos_token_id": 0, "expand": 2,
        "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": INNER, "layer_norm_epsilon": EPS, "model_type": "mamba",
        "num_hidden_layers": LAYERS, "pad_token_id": 0, "residual_in_fp32": True, "rms_norm_eps": MIXER_EPS, "state_size": STATE,
        "tie_word_embeddings": False, "time_step_rank": DT_RANK, "use_bias": False, "use_conv_bias": True, "vocab_size": VOCAB,
    }
    about = {
        "logits": "float64, the mixer is transformers' JambaMambaMixer", "transformers": transformers.__version__,
        "torch": torch.__version__, "closest_greedy": closest, "max_abs_logit": logits.abs().max().item(),
        "max_abs_diff_with_norm_weights_of_1": weightless,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (OUT / "golden.json").write_text(json.dumps(about, indent=1) + "\n")
    save_file(weights, OUT / "model.safetensors", metadata={"format": "pt"})
    save_file({"input_ids": ids.int(), "logits": logits.float(), "greedy": text[:, TOKENS:].int().contiguous()},
              OUT / "golden.safetensors")
    for path in OUT.iterdir():
        path.chmod(0o644)
    print(OUT, about, text[:, TOKENS:].tolist())


if __name__ == "__main__":
    main()
