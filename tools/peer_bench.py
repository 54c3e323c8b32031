#!/usr/bin/env python3
"""Times Mamba-2 inference on one GPU as the public Python stack does it: the yardstick for polylepis.

The stack is PyTorch (cuBLAS products, CUDA graphs) with the Triton kernels of mamba_ssm, which must be importable. A layer
is the inference path of mamba_ssm's Mamba2 module inside its Block: fused add + RMSNorm, in_proj, causal convolution + SiLU,
selective_state_update (decode) or mamba_chunk_scan_combined (prefill), gated RMSNorm, out_proj. Two departures: -exp(A_log)
and the broadcasts of dt_bias and D are made once, not in every step; and the convolution is a Triton kernel of this file, so
that causal_conv1d, which must be compiled, is not needed.

Weights are random bf16, the residual stream is fp32 as in mamba_ssm's own configuration, tokens are chosen greedily.
    decode        one step of B sequences: embedding, all layers, lm_head, argmax, as one CUDA graph, replayed back to back
    prefill       one sequence from token ids to the next token, states kept, launched kernel by kernel from an idle GPU
    prefill_graph the same as one CUDA graph, which serves one prompt length only
    layer         parts of one layer, each in a CUDA graph of several calls over different weights or states
    product       F.linear on M rows, over the weights of all layers in turn (or lm_head, itself larger than L2)
Prints CSV rows name,shape,us_median. A wrong or non-finite result ends the run with an error. The first run compiles every
candidate of the autotuners; Triton keeps them for the next.

    pip install torch mamba_ssm && tools/peer_bench.py [SHAPE...]
"""
import statistics
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from mamba_ssm.ops.triton import layer_norm, layernorm_gated, selective_state_update as state_update
from mamba_ssm.ops.triton import ssd_bmm, ssd_chunk_scan, ssd_chunk_state, ssd_combined, ssd_state_passing

HEAD_DIM, D_STATE, TAPS, CHUNK, EPS = 64, 128, 4, 256, 1e-5
BF16, FP32 = torch.bfloat16, torch.float32
DEVICE = "cuda"


class Shape(NamedTuple):
    name: str
    hidden: int
    heads: int
    groups: int
    vocab: int
    tied: bool
    layers: int = 64

    @property
    def inner(self):
        return self.heads * HEAD_DIM

    @property
    def conv(self):
        return self.inner + 2 * self.groups * D_STATE

    @property
    def in_rows(self):
        return self.inner + self.conv + self.heads


SHAPES = [
    Shape("codestral-7b", hidden=4096, heads=128, groups=8, vocab=32768, tied=False),
    Shape("mamba2-2.7b", hidden=2560, heads=80, groups=1, vocab=50288, tied=True),
]
DECODE = [(1, FP32), (8, FP32), (64, FP32), (64, BF16), (256, BF16), (256, FP32)]
PREFILL = [8192, 2048, 32768]  # the autotuners of mamba_ssm settle on the first
PARTS_TOKENS = 8192
PRODUCT_ROWS = [1, 8, 16, 64, 256]


@triton.autotune(
    [triton.Config({"BT": t, "BC": c}, num_warps=w)
     for t, c, w in [(16, 128, 4), (16, 256, 4), (32, 64, 4), (32, 128, 4), (32, 128, 8), (64, 64, 4)]],
    key=["channels"])
@triton.jit
def conv_prefill_kernel(x, weight, bias, y, x_stride, tokens, channels,
                        TAPS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr):
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < channels
    total = tl.zeros((BT, BC), tl.float32) + tl.load(bias + c, mask=inside, other=0).to(tl.float32)[None, :]
    for k in tl.static_range(TAPS):
        past = t - (TAPS - 1) + k
        tap = tl.load(weight + c * TAPS + k, mask=inside, other=0).to(tl.float32)
        value = tl.load(x + past[:, None] * x_stride + c[None, :],
                        mask=(past >= 0)[:, None] & (past < tokens)[:, None] & inside[None, :], other=0)
        total += value.to(tl.float32) * tap[None, :]
    tl.store(y + t[:, None] * channels + c[None, :], total * tl.sigmoid(total),
             mask=(t < tokens)[:, None] & inside[None, :])


@triton.jit
def conv_step_kernel(x, state, weight, bias, y, x_stride, channels, TAPS: tl.constexpr, BC: tl.constexpr):
    row = tl.program_id(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < channels
    state += row * (TAPS - 1) * channels
    total = tl.load(bias + c, mask=inside, other=0).to(tl.float32)
    for k in tl.static_range(TAPS):
        if k < TAPS - 1:
            value = tl.load(state + k * channels + c, mask=inside, other=0)
        else:
            value = tl.load(x + row * x_stride + c, mask=inside, other=0)
        total += value.to(tl.float32) * tl.load(weight + c * TAPS + k, mask=inside, other=0).to(tl.float32)
        if k > 0:
            tl.store(state + (k - 1) * channels + c, value, mask=inside)
    tl.store(y + row * channels + c, total * tl.sigmoid(total), mask=inside)


def conv_prefill(x, weight, bias):
    """x (tokens, channels) with unit channel stride -> SiLU(causal convolution), contiguous; weight (channels, TAPS)."""
    tokens, channels = x.shape
    y = torch.empty(tokens, channels, dtype=x.dtype, device=x.device)
    grid = lambda meta: (triton.cdiv(channels, meta["BC"]), triton.cdiv(tokens, meta["BT"]))
    conv_prefill_kernel[grid](x, weight, bias, y, x.stride(0), tokens, channels, TAPS=TAPS)
    return y


def conv_step(x, state, weight, bias):
    """One token for each row of x (rows, channels); state (rows, TAPS - 1, channels) holds the last inputs and is shifted."""
    rows, channels = x.shape
    y = torch.empty(rows, channels, dtype=x.dtype, device=x.device)
    conv_step_kernel[(triton.cdiv(channels, 256), rows)](x, state, weight, bias, y, x.stride(0), channels,
                                                         TAPS=TAPS, BC=256)
    return y


def retune():
    """Forgets what the autotuners found, so that neither another model nor the other phase decides for this one."""
    for module in (layer_norm, ssd_bmm, ssd_chunk_scan, ssd_chunk_state, ssd_combined, ssd_state_passing):
        for thing in vars(module).values():
            if hasattr(thing, "configs") and hasattr(thing, "cache"):
                thing.cache.clear()


def random(*size, scale=1.0, dtype=BF16):
    return torch.empty(*size, dtype=dtype, device=DEVICE).normal_(std=scale)


class Layer:
    def __init__(self, s):
        self.norm = 1 + random(s.hidden, scale=0.1)
        self.in_proj = random(s.in_rows, s.hidden, scale=s.hidden ** -0.5)
        self.conv_weight = random(s.conv, TAPS, scale=0.5)
        self.conv_bias = random(s.conv, scale=0.1)
        self.a = -torch.empty(s.heads, device=DEVICE).uniform_(1, 16)
        self.d = random(s.heads, dtype=FP32)
        step = torch.exp(torch.empty(s.heads, device=DEVICE).uniform_(-6.9, -2.3))
        self.dt_bias = step + torch.log(-torch.expm1(-step))  # softplus of this is step, 0.001 to 0.1
        self.gated_norm = 1 + random(s.inner, scale=0.1)
        self.out_proj = random(s.hidden, s.inner, scale=s.inner ** -0.5)
        per_head = lambda v: v[:, None].expand(s.heads, HEAD_DIM)
        # Stride 0 tells selective_state_update that these are scalars of a head.
        self.a_wide = self.a[:, None, None].expand(s.heads, HEAD_DIM, D_STATE)
        self.d_wide, self.dt_bias_wide = per_head(self.d), per_head(self.dt_bias)


class Model:
    def __init__(self, s):
        self.shape = s
        self.layers = [Layer(s) for _ in range(s.layers)]
        self.embedding = random(s.vocab, s.hidden)
        self.head = self.embedding if s.tied else random(s.vocab, s.hidden)
        self.norm = 1 + random(s.hidden, scale=0.1)

    def new_states(self, rows, dtype):
        s = self.shape
        self.conv_states = [random(rows, TAPS - 1, s.conv) for _ in self.layers]
        self.states = [random(rows, s.heads, HEAD_DIM, D_STATE, dtype=dtype) for _ in self.layers]

    def split(self, rows):
        s = self.shape
        return rows.split([s.inner, s.conv, s.heads], dim=-1)

    def split_conv(self, rows):
        """Rows of the convolution's output as x (rows, heads, P), B and C (rows, groups, N)."""
        s = self.shape
        x, *bc = rows.split([s.inner, s.groups * D_STATE, s.groups * D_STATE], dim=-1)
        return x.unflatten(-1, (s.heads, HEAD_DIM)), *(v.unflatten(-1, (s.groups, D_STATE)) for v in bc)

    def add_norm(self, x, residual, weight):
        return layer_norm.layer_norm_fn(x, weight, None, residual=residual, prenorm=True, residual_in_fp32=True, eps=EPS,
                                        is_rms_norm=True)

    def gated_norm(self, layer, y, z):
        group = self.shape.inner // self.shape.groups
        return layernorm_gated.rmsnorm_fn(y, layer.gated_norm, None, z=z, eps=EPS, group_size=group, norm_before_gate=False)

    def update(self, layer, state, xbc, dt):
        x, b, c = self.split_conv(xbc)
        return state_update.selective_state_update(
            state, x, dt[:, :, None].expand(-1, -1, HEAD_DIM), layer.a_wide, b, c, layer.d_wide,
            dt_bias=layer.dt_bias_wide, dt_softplus=True)

    def scan(self, layer, xbc, dt):
        x, b, c = self.split_conv(xbc)
        y, state = ssd_combined.mamba_chunk_scan_combined(
            x[None], dt[None], layer.a, b[None], c[None], chunk_size=CHUNK, D=layer.d,
            dt_bias=layer.dt_bias, dt_softplus=True, return_final_states=True)
        return y[0], state

    def logits(self, x, residual):
        return F.linear(self.add_norm(x, residual, self.norm)[0], self.head)

    def step(self, tokens):
        """tokens (rows) -> logits (rows, vocab); advances the states."""
        x, residual = F.embedding(tokens, self.embedding), None
        for layer, conv_state, state in zip(self.layers, self.conv_states, self.states):
            x, residual = self.add_norm(x, residual, layer.norm)
            z, xbc, dt = self.split(F.linear(x, layer.in_proj))
            y = self.update(layer, state, conv_step(xbc, conv_state, layer.conv_weight, layer.conv_bias), dt)
            x = F.linear(self.gated_norm(layer, y.flatten(1), z), layer.out_proj)
        return self.logits(x, residual)

    def prefill(self, tokens):
        """tokens of one sequence -> logits (1, vocab) after the last; fills the states of row 0."""
        x, residual = F.embedding(tokens, self.embedding), None
        for layer, conv_state, state in zip(self.layers, self.conv_states, self.states):
            x, residual = self.add_norm(x, residual, layer.norm)
            z, xbc, dt = self.split(F.linear(x, layer.in_proj))
            conv_state[0].copy_(xbc[-(TAPS - 1):])
            y, last = self.scan(layer, conv_prefill(xbc, layer.conv_weight, layer.conv_bias), dt)
            state[:1].copy_(last)
            x = F.linear(self.gated_norm(layer, y.flatten(1), z), layer.out_proj)
        return self.logits(x[-1:], residual[-1:])


def median_us(call, runs, drain):
    """Median of runs calls between events. drain: start each from an idle GPU, so that the cost of launching counts."""
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    for start, end in pairs:
        start.record()
        call()
        end.record()
        if drain:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return 1000 * statistics.median(start.elapsed_time(end) for start, end in pairs)


def capture(call):
    """call as a CUDA graph, and what it returned: the memory that every replay writes."""
    call()  # compiles and tunes
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def report(name, shape, us):
    print(f"{name},{shape.name},{us:.1f}", flush=True)


def report_each(name, shape, calls):
    """The mean of calls, made one after the other in one graph."""
    graph, _ = capture(lambda: [call() for call in calls])
    report(name, shape, median_us(graph.replay, 10, drain=False) / len(calls))


def require(truth, what):
    if not truth:
        sys.exit(f"peer_bench: {what}")


def check(model):
    """The convolution against float64, then prefill against prefill and decode: two routes to the same logits."""
    s, layer = model.shape, model.layers[0]
    x = random(300, s.in_rows)[:, s.inner:s.inner + s.conv]
    weight, bias = layer.conv_weight, layer.conv_bias
    exact = F.conv1d(F.pad(x.double().T, (TAPS - 1, 0)), weight.double()[:, None], bias.double(), groups=s.conv)
    exact = F.silu(exact).T
    state = torch.zeros(1, TAPS - 1, s.conv, dtype=BF16, device=DEVICE)
    steps = torch.cat([conv_step(row[None], state, weight, bias) for row in x[:8]])
    for got, want in ((conv_prefill(x, weight, bias), exact), (steps, exact[:8])):
        error = ((got - want).norm() / want.norm()).item()
        require(error < 3e-3, f"the convolution is off by {error:.2e}, rounding to bf16 explains 2e-3")

    tokens = torch.randint(s.vocab, (2064,), device=DEVICE)
    model.new_states(1, FP32)
    whole = model.prefill(tokens).double()
    model.prefill(tokens[:2048])
    for token in tokens[2048:]:
        split = model.step(token[None])
    error = ((split - whole).norm() / whole.norm()).item()
    print(f"# {s.name}: logits of prefill 2064 and of prefill 2048 + 16 steps differ by {error:.2e}", flush=True)
    require(error < 0.1, "prefill and decode disagree by more than bf16 through all layers explains")


def bench_decode(model):
    s = model.shape
    retune()
    for rows, dtype in DECODE:
        model.conv_states = model.states = None  # before the next ones are made: two sets may not fit
        torch.cuda.empty_cache()
        suffix = f"B{rows}_{'bf16' if dtype == BF16 else 'fp32'}"
        need, free = s.layers * rows * s.inner * D_STATE * dtype.itemsize, torch.cuda.mem_get_info()[0]
        if 1.1 * need > free:
            print(f"# {s.name}: decode_{suffix} skipped, its states take {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
            continue
        model.new_states(rows, dtype)
        tokens = torch.randint(s.vocab, (rows,), device=DEVICE)

        def step():
            logits = model.step(tokens)
            tokens.copy_(logits.argmax(-1))
            return logits

        graph, logits = capture(step)
        report(f"decode_{suffix}", s, median_us(graph.replay, 15, drain=False))
        require(logits.isfinite().all(), f"decode_{suffix}: a logit is not finite")
        require(all(state.isfinite().all() for state in model.states), f"decode_{suffix}: a state is not finite")
        del graph, logits

        xbc, dt = random(rows, s.conv), random(rows, s.heads)
        report_each(f"layer_update_{suffix}", s,
                    [lambda l=l, h=h: model.update(l, h, xbc, dt) for l, h in zip(model.layers, model.states)])


def bench_prefill(model):
    s = model.shape
    retune()
    model.new_states(1, FP32)
    for length in PREFILL:
        tokens = torch.randint(s.vocab, (length,), device=DEVICE)
        run = lambda: model.prefill(tokens).argmax(-1)
        report(f"prefill_{length}", s, median_us(run, 10, drain=True))
        require(model.prefill(tokens).isfinite().all(), f"prefill_{length}: a logit is not finite")
        require(all(state.isfinite().all() for state in model.states), f"prefill_{length}: a state is not finite")
        if length <= PARTS_TOKENS:
            graph, _ = capture(run)
            report(f"prefill_graph_{length}", s, median_us(graph.replay, 10, drain=True))
            del graph
        torch.cuda.empty_cache()


def bench_parts(model):
    s, layers, rows = model.shape, model.layers[:4], PARTS_TOKENS
    x, residual, wide = random(rows, s.hidden), random(rows, s.hidden, dtype=FP32), random(rows, s.inner)
    z, xbc, dt = model.split(random(rows, s.in_rows))
    conv = conv_prefill(xbc, layers[0].conv_weight, layers[0].conv_bias)
    parts = {
        "add_norm": lambda l: model.add_norm(x, residual, l.norm),
        "add_norm_bf16_residual": lambda l: model.add_norm(x, wide[:, :s.hidden], l.norm),
        "in_proj": lambda l: F.linear(x, l.in_proj),
        "conv": lambda l: conv_prefill(xbc, l.conv_weight, l.conv_bias),
        "ssd": lambda l: model.scan(l, conv, dt),
        "gated_norm": lambda l: model.gated_norm(l, wide, z),
        "out_proj": lambda l: F.linear(wide, l.out_proj),
    }
    for name, part in parts.items():
        report_each(f"layer_{name}_{rows}", s, [lambda l=l: part(l) for l in layers])


def bench_products(model):
    s = model.shape
    for rows in PRODUCT_ROWS:
        for name, weights in (("in_proj", [l.in_proj for l in model.layers]),
                              ("out_proj", [l.out_proj for l in model.layers]), ("lm_head", [model.head] * 4)):
            x = random(rows, weights[0].shape[1])
            report_each(f"product_{name}_M{rows}", s, [lambda w=w: F.linear(x, w) for w in weights])


@torch.no_grad()
def main(names):
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    known = {shape.name: shape for shape in SHAPES}
    for name in names or known:
        require(name in known, f"unknown shape {name}; fix: one of {', '.join(known)}")
        torch.manual_seed(0)
        model = Model(known[name])
        for bench in (bench_decode, bench_prefill, check, bench_parts, bench_products):
            bench(model)
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
