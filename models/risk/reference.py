#!/usr/bin/env python3
"""The risk model in plain Python, in double precision: an independent reference for the engine's scores.

It reads risk.safetensors and model.yaml beside it and needs nothing but Python 3.8.

    python3 reference.py --write-expected            writes expected.json, the fixture of the engine's tests
    python3 reference.py < rows.jsonl > scores.txt   a JSON list of features a line in, a score a line out
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
    """Normalize, three linear layers with relu between them, sigmoid."""

    def __init__(self):
        card = (HERE / "model.yaml").read_text()
        tensors = read_safetensors(HERE / "risk.safetensors")
        self.mean, self.std = read_list(card, "mean"), read_list(card, "std")
        self.layers = []
        for name in re.findall(r"name: (\w+) }", card):
            (outputs, inputs), weight = tensors[f"{name}.weight"]
            rows = [weight[row * inputs : (row + 1) * inputs] for row in range(outputs)]
            self.layers.append((rows, tensors[f"{name}.bias"][1]))

    def score(self, features):
        x = [(as_f32(x) - mean) / std for x, mean, std in zip(features, self.mean, self.std, strict=True)]
        for at, (rows, bias) in enumerate(self.layers):
            if at > 0:
                x = [max(value, 0.0) for value in x]
            x = [math.fsum([b, *map(lambda w, v: w * v, row, x)]) for row, b in zip(rows, bias)]
        return 1.0 / (1.0 + math.exp(-x[0])) if x[0] > -700 else 0.0


def examples():
    """Rows of features of every sort that the pipeline makes, and some that it never would."""
    numbers = random.Random(2026)
    rows = [[20.0, 12.0, 1.0, 20.0, 0.0, 0.0, 20.0, 1.0], [0.0] * 8]
    for _ in range(254):
        usual = math.exp(numbers.gauss(3.5, 0.8))
        count = numbers.choice([1, 1, 1, 2, 3, 5, 8, 12])
        amount = usual * math.exp(numbers.gauss(0.0, 1.2))
        mean = amount if count == 1 else usual * math.exp(numbers.gauss(0.0, 0.7))
        std = 0.0 if count == 1 else mean * numbers.random()
        z = (amount - mean) / max(std, 1.0)
        rows.append([amount, numbers.randrange(24), count, mean, std, z, usual, amount / max(usual, 1.0)])
    return [[as_f32(x) for x in row] for row in rows]


def main():
    model = Model()
    if sys.argv[1:] == ["--write-expected"]:
        rows = examples()
        lines = [json.dumps({"features": row, "score": model.score(row)}) for row in rows]
        (HERE / "expected.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    elif not sys.argv[1:]:
        for line in sys.stdin:
            print(repr(model.score(json.loads(line))))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
