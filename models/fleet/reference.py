#!/usr/bin/env python3
"""The fleet model in plain Python, in double precision: an independent reference for what the engine puts out.

It reads fleet.safetensors and model.yaml beside it and needs nothing but Python 3.8.

    python3 reference.py --write-expected            writes expected.json, the fixture of the engine's tests
    python3 reference.py < rows.jsonl                a JSON list of features a line in, a list of deviations a line out
"""

import json
import math
import pathlib
import random
import re
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent


def read_safetensors(path):
    """Name to (shape, numbers) for a file of f32 tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        assert info["dtype"] == "F32", name
        start, end = (8 + length + offset for offset in info["data_offsets"])
        tensors[name] = (info["shape"], struct.unpack(f"<{(end - start) // 4}f", data[start:end]))
    return tensors


def read_list(card, key):
    """The numbers of `key: [...]` in the card."""
    return [float(number) for number in re.search(rf"\b{key}: \[(.*?)\]", card).group(1).split(",")]


def as_f32(x):
    """The number as the engine is fed it."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


class Model:
    """Normalize; what the narrow layers say, added to it; then the last layer."""

    def __init__(self):
        card = (HERE / "model.yaml").read_text()
        self.tensors = read_safetensors(HERE / "fleet.safetensors")
        self.mean, self.std = read_list(card, "mean"), read_list(card, "std")

    def linear(self, name, x):
        (_, inputs), weight = self.tensors[f"{name}.weight"]
        rows = [weight[at : at + inputs] for at in range(0, len(weight), inputs)]
        return [math.fsum([b, *map(lambda w, v: w * v, row, x)]) for row, b in zip(rows, self.tensors[f"{name}.bias"][1])]

    def deviations(self, features):
        x = [(as_f32(x) - mean) / std for x, mean, std in zip(features, self.mean, self.std, strict=True)]
        y = [math.tanh(value) for value in self.linear("encode1", x)]
        y = self.linear("decode1", self.linear("encode2", y))
        y = self.linear("decode2", [math.tanh(value) for value in y])
        return self.linear("scale", [a + b for a, b in zip(x, y)])


def examples(model):
    """Features around the ordinary, and some far from it."""
    numbers = random.Random(2026)
    rows = [list(model.mean), [0.0] * len(model.mean)]
    for _ in range(126):
        width = numbers.choice([0.3, 1.0, 3.0])
        load = numbers.gauss(0.0, 1.0)
        rows.append([mean + std * (load + width * numbers.gauss(0.0, 0.3)) for mean, std in zip(model.mean, model.std)])
    return [[as_f32(x) for x in row] for row in rows]


def main():
    model = Model()
    if sys.argv[1:] == ["--write-expected"]:
        lines = [json.dumps({"features": row, "deviations": model.deviations(row)}) for row in examples(model)]
        (HERE / "expected.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    elif not sys.argv[1:]:
        for line in sys.stdin:
            print(json.dumps(model.deviations(json.loads(line))))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
