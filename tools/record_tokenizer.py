#!/usr/bin/env python3
"""Record what the reference `tokenizers` library answers, for tests/unit/test_tokenizer.c.

    python3 -m venv VENV && VENV/bin/pip install tokenizers==0.23.3
    VENV/bin/python tools/record_tokenizer.py

Writes to tests/data/tokenizer, for each tokenizer (the demo's, and small ones built here from the demo's held-out text):
  NAME.json         the tokenizer itself (not for the demo)
  NAME.cases.json   texts with their ids and what those decode to; readable, so that a failure can be understood
  NAME.digests      little-endian uint32: of STRINGS random texts the digest of the ids and of the text they decode to, in turns;
                    then of SEQUENCES random id sequences the digest of what they decode to, special tokens kept and skipped, in turns
A digest of 0, or a null, is where the reference itself failed.
Random texts and ids come from splitmix64, seeded by their index, so that the test makes the same ones.
"""
import json
import pathlib
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data/tokenizer"
HELDOUT = ROOT / "tests/data/demo/heldout.txt"
STRINGS, SEQUENCES, READABLE, TEXT_SEED, ID_SEED = 10000, 2000, 120, 1 << 32, 2 << 32
MASK = (1 << 64) - 1

# Texts that someone thought of.
CHOSEN = [
    "", " ", "  ", "\n", "a", "\0", "Hello, world!", "  two  spaces\n\n\ttabs ", "it's 3.14159 — naïve café", "日本語 🤖 mixed",
    "I'LL don't you'VE 123abc 12345678 ①②½", "e\u0301 A\u030a o\u0323\u0302\u031b ẛ̣ ﬁ ﷺ", "한국어 각", "\u180ea\u180e b",
    "a  b   c    d     e      f", "x" * 300, " " * 100, "ab " * 50, "<|endoftext|>In the beginning<|endoftext|>", "<|endoftext|",
    "<s>[INST] hi [/INST]</s>", "a <left> b <left>c", "a <right> b <right>c", "word words sword word. Word", "İstanbul ſ K ẞ",
    "tab\tand\rreturn\r\n  end", "1999-12-31 1,234,567.89", "-- - --a-b", "naïve\u200bzero\u200dwidth", "\ufeffbom", "[0-9][0-9][0-9]",
    "  leading", "trailing  ", "_under_score__", "¿Qué?  ¡Sí!", "👨‍👩‍👧👍🏽🇩🇪❤️", "\u0378\u0379\U00040000\U0010ffff", "<0x41><0x0A>", "▁a▁▁b",
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def splitmix(seed):
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def alphabet():
    entries = []
    for line in (DATA / "alphabet.txt").read_text().splitlines():
        if line and line[0] != "#":
            weight, kind, *points = line.split()
            entries.append((int(weight), kind, [int(p, 16) for p in points]))
    return entries


def random_text(entries, index):
    draw = splitmix(TEXT_SEED + index)
    total, out = sum(e[0] for e in entries), []
    for _ in range(1 + next(draw) % 40):
        at = next(draw) % total
        for weight, kind, points in entries:
            if at < weight:
                break
            at -= weight
        out.extend([points[0] + next(draw) % (points[1] - points[0] + 1)] if kind == "r" else points)
    return "".join(map(chr, out))


def random_ids(vocab, index):
    draw = splitmix(ID_SEED + index)
    return [next(draw) % (vocab + 3) for _ in range(1 + next(draw) % 30)]  # some ids have no token


def digest(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & MASK
    return (h ^ (h >> 32)) & 0xFFFFFFFF


def ids_digest(ids):
    return digest(struct.pack(f"<{len(ids)}i", *ids))


def decode(tokenizer, ids, skip):
    """None where the reference panics: its Strip decoder does so on what is shorter than it strips."""
    try:
        return tokenizer.decode(ids, skip_special_tokens=skip)
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        return None


def text_digest(text):
    return 0 if text is None else digest(text.encode())


def train(tokenizer, size, **options):
    lines = HELDOUT.read_text().splitlines(keepends=True)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    return tokenizer


BYTES = dict(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))


def neox():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    train(t, 560, special_tokens=["<|endoftext|>", "<|padding|>"], **BYTES)
    t.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)])
    data = json.loads(t.to_str())
    data["model"]["merges"] = ["#version: 0.2"] + [" ".join(m) for m in data["model"]["merges"]]  # as old files have them
    return data


def falcon():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    t.decoder = decoders.ByteLevel()
    return json.loads(train(t, 560, special_tokens=["<|endoftext|>", ">>TITLE<<"], **BYTES).to_str())


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, 560, special_tokens=["<|endoftext|>", "<s>"], **BYTES)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", t.token_to_id("<s>"))])])
    data = json.loads(t.to_str())
    data["model"]["vocab"]["ĠJerusalem"] = 600  # whole words that no merge makes, with a gap in the ids
    data["model"]["vocab"]["xxx"] = 601
    return data


def tekken():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(TEKKEN), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return json.loads(train(t, 560, special_tokens=["<unk>", "<s>", "</s>"], **BYTES).to_str())


def sentencepiece():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # to train on words; the files have none
    train(t, 620, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], limit_alphabet=80)
    t.pre_tokenizer = None
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    data = json.loads(t.to_str())
    data["added_tokens"] = data["added_tokens"][:3]  # byte tokens are no added tokens
    return data


def metaspace():
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s{2,}"), " "), normalizers.Strip(left=False, right=True)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Metaspace(prepend_scheme="first")
    train(t, 400, special_tokens=["<unk>", "<s>"], limit_alphabet=80)
    t.add_tokens([
        AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=True), AddedToken("Sí", normalized=True), AddedToken("words", normalized=False),
        AddedToken("</s>", lstrip=True, rstrip=True, normalized=False, special=True)])
    return json.loads(t.to_str())


def splits():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("-", "merged_with_previous"), pre_tokenizers.Split(Regex(r"\d{2}"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[\w ]+|(?<=a)_"), "contiguous", invert=True), pre_tokenizers.Split(",", "removed"),
        pre_tokenizers.Split(Regex(r"(?i)[xk]*"), "isolated"), pre_tokenizers.Digits(True), pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.ByteLevel(add_prefix_space=True)])
    t.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 2, 3), decoders.Replace(Regex(r"\s+$"), "~")])
    return json.loads(train(t, 450, special_tokens=["<|endoftext|>"], **BYTES).to_str())


def partial():
    """Half the byte tokens, no spaces cut, no decoder: what falls back, what fuses, and in which order."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.NFD()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    t.decoder = None
    train(t, 420, special_tokens=["<unk>"] + [f"<0x{b:02X}>" for b in range(0x80, 0xE4)], limit_alphabet=60)
    data = json.loads(t.to_str())
    data["added_tokens"] = data["added_tokens"][:1]
    return data


def cuts(*steps):
    """Every piece with a ▁ in front and no merges: the ids show where the pre-tokenizer cuts, which those of a trained model hide where no
    merge would cross."""
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(BYTES["initial_alphabet"] + ["▁"])}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.Metaspace(prepend_scheme="always", split=False)])
    t.decoder = decoders.Sequence([decoders.Replace("▁", ""), decoders.ByteLevel()])
    return json.loads(t.to_str())


TO_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def cuts_gpt2():
    return cuts(pre_tokenizers.ByteLevel(add_prefix_space=False))


def cuts_llama3():
    return cuts(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), TO_BYTES)


def cuts_tekken():
    return cuts(pre_tokenizers.Split(Regex(TEKKEN), "isolated"), TO_BYTES)


def cuts_deepseek():
    return cuts(
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.Split(Regex(r"[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
        pre_tokenizers.Split(Regex(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
                                   r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""), "isolated"), TO_BYTES)


def cuts_classes():
    return cuts(
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(False), pre_tokenizers.Split(Regex(r"\w+"), "isolated"),
        pre_tokenizers.Split(Regex(r"(?i:[a-k]+|ſ)"), "merged_with_next"), TO_BYTES)


def record(name, tokenizer, entries):
    strings = [random_text(entries, i) for i in range(STRINGS)]
    out, cases = [], []
    for text in strings:
        ids = tokenizer.encode(text).ids
        out += [ids_digest(ids), text_digest(decode(tokenizer, ids, False))]
    vocab = max(tokenizer.get_vocab().values()) + 1
    for i in range(SEQUENCES):
        ids = random_ids(vocab, i)
        out += [text_digest(decode(tokenizer, ids, skip)) for skip in (False, True)]
    (DATA / f"{name}.digests").write_bytes(struct.pack(f"<{len(out)}I", *out))
    for text in CHOSEN + strings[:READABLE // (4 if name.startswith("cuts") else 1)]:
        ids = tokenizer.encode(text).ids
        cases.append({"text": text, "ids": ids, "plain": tokenizer.encode(text, add_special_tokens=False).ids,
                      "decoded": decode(tokenizer, ids, False), "skipped": decode(tokenizer, ids, True)})
    heldout = tokenizer.encode(HELDOUT.read_text()).ids
    whole = {"vocab": vocab, "heldout_count": len(heldout), "heldout_digest": ids_digest(heldout)}
    lines = [json.dumps(c, ensure_ascii=True) for c in cases]
    (DATA / f"{name}.cases.json").write_text(json.dumps(whole)[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n")
    print(name, "vocabulary", vocab, "held-out text", len(heldout))


def main():
    entries = alphabet()
    record("demo", Tokenizer.from_file(str(ROOT / "models/demo/tokenizer.json")), entries)
    for build in (neox, falcon, llama3, tekken, sentencepiece, metaspace, splits, partial, cuts_gpt2, cuts_llama3, cuts_tekken, cuts_deepseek,
                  cuts_classes):
        path = DATA / f"{build.__name__}.json"
        path.write_text(json.dumps(build(), ensure_ascii=False) + "\n")
        record(build.__name__, Tokenizer.from_file(str(path)), entries)


if __name__ == "__main__":
    main()
