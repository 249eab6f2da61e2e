#!/usr/bin/env python3
"""Writes the small weights that the broken cards beside it name: `python3 weights.py`."""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
SMALL = {"fc1.weight": [4, 3], "fc1.bias": [4], "fc2.weight": [1, 4], "fc2.bias": [1]}


def safetensors(shapes, dtype="F32", first=None):
    header, data = {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        start = len(data)
        for at in range(count):
            number = (at % 7 - 3) / 4
            if dtype == "F32":
                data += struct.pack("<f", first if first is not None and not data else number)
            else:
                data += struct.pack("<b", at % 7 - 3)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


small = safetensors(SMALL)
files = {
    "small": small,
    "cut": small[:-6],
    "cut_header": small[:60],
    "transposed": safetensors({**SMALL, "fc1.weight": [3, 4]}),
    "quantized": safetensors(SMALL, dtype="I8"),
    "diverged": safetensors(SMALL, first=float("nan")),
    "more": safetensors({**SMALL, "fc3.weight": [1, 1], "fc3.bias": [1]}),
    "pickled": b"PK\x03\x04" + b"archive/data.pkl" * 4,
}
for name, data in files.items():
    (HERE / f"{name}.safetensors").write_bytes(data)
