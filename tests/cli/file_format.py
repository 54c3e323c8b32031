#!/usr/bin/env python3
"""Model files through h5py, by docs/file-format.md alone.

    file_format.py write FILE DOCUMENT   runs the document's example, which writes FILE
    file_format.py read FILE DOCUMENT    checks FILE (all 65536 values of both 16-bit types) and its manifest, with h5py and h5dump
Exit status 0: as it should be; 77: no h5py here."""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
except ImportError:
    sys.exit(77)


def example(document):
    with open(document, encoding="utf-8") as f:
        blocks = re.findall(r"^```python\n(.*?)^```$", f.read(), re.S | re.M)
    assert len(blocks) == 1, "the document holds one program"
    return blocks[0]


def write(path, document):
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(example(document))
        script.flush()
        subprocess.run([sys.executable, script.name, path], check=True)


def crc32c(data):  # bit by bit: the definition
    r = 0xFFFFFFFF
    for byte in data:
        r ^= byte
        for _ in range(8):
            r = r >> 1 ^ (0x82F63B78 if r & 1 else 0)
    return r ^ 0xFFFFFFFF


def attributes(path, item):
    for name, value in item.attrs.items():
        if isinstance(value, (str, bytes)):
            raw = value.encode() if isinstance(value, str) else bytes(value)
            kind, count = "string", len(raw)
        elif np.asarray(value).dtype == "<i8":
            raw, kind, count = np.asarray(value).tobytes(), "int", np.asarray(value).size
        else:
            assert np.asarray(value).dtype == "<f8", (path, name, value)
            raw, kind, count = np.asarray(value).tobytes(), "double", 1
        yield path, name, f"attribute {path} {name} {kind} {count}\n".encode() + raw


def payload(path, data):
    with open(path, "rb") as f:
        f.seek(data.id.get_offset())
        return f.read(data.id.get_storage_size())


def check_manifest(path, f):
    found = {}
    records = list(attributes("/", f))

    def visit(name, item):
        name = "/" + name
        if name.startswith("/manifest"):
            return
        records.extend(attributes(name, item))
        if isinstance(item, h5py.Dataset):
            raw = payload(path, item)
            types = {"|u1": "U8", "<f2": "F16", "<f4": "F32"}
            dtype = "BF16" if item.id.get_type().get_size() == 2 and item.dtype == "<f4" else types[item.dtype.str]
            line = f"{name} {dtype} {'x'.join(map(str, item.shape))}\n"
            found[name] = line, [crc32c(raw[i:i + 2**20]) for i in range(0, len(raw), 2**20)]

    f.visititems(visit)
    text = "".join(found[name][0] for name in sorted(found)).encode()
    sums = np.array([s for name in sorted(found) for s in found[name][1]], "<u4")
    assert f["manifest/datasets"][:].tobytes() == text, text
    assert (f["manifest/sums"][:] == sums).all()
    digest = hashlib.sha256(b"".join(record for _, _, record in sorted(records)) + text + sums.tobytes()).hexdigest()
    stated = f["manifest"].attrs["sha256"]
    assert (stated.decode() if isinstance(stated, bytes) else stated) == digest, (stated, digest)


def check_values(f):
    bits = np.arange(65536, dtype="<u2").reshape(256, 256)
    half, brain = f["half/weight"], f["brain/weight"]
    assert half.dtype == np.float16, half.dtype
    assert (half[:].view("<u2") == bits).all()
    want = (bits.astype("<u4") << 16).view("<f4")
    got = brain[:].astype("<f4")
    assert ((got == want) | (np.isnan(got) & np.isnan(want))).all()


def check_dump(path):
    if shutil.which("h5dump") is None:
        return
    for name, row, first in (("half", 0x3C, "1, 1.00098, 1.00195"), ("brain", 0x3F, "0.5, 0.503906, 0.507812")):
        start = f"{row},{0 if name == 'half' else 0x00}"
        out = subprocess.run(["h5dump", "-d", f"/{name}/weight", "-s", start, "-c", "1,3", path], check=True, capture_output=True, text=True).stdout
        assert "16-bit little-endian floating-point" in out, out
        assert first in out, out


def read(path, document):
    with h5py.File(path, "r") as f:
        check_values(f)
        check_manifest(path, f)
    check_dump(path)


if __name__ == "__main__":
    mode, file, document = sys.argv[1:]
    os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
    {"write": write, "read": read}[mode](file, document)
