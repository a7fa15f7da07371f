#!/usr/bin/env python3
"""Another implementation of adapter packages, written from docs/adapter-package.md alone, with Python's own library.

It writes the page's example as a package, with weights in every type, reads it back, and projects three rows and
the special vectors: `expected.json`. `tests/projector.rs` reads the same package and compares.

usage: adapter_package.py tests/golden/adapter-package
"""

import hashlib
import json
import math
import pathlib
import struct
import sys


def halves(values):
    return struct.pack(f"<{len(values)}e", *values)


def singles(values):
    return struct.pack(f"<{len(values)}f", *values)


def brain_halves(values):
    # The upper half of each float32: the values written here have no more digits.
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def floats(dtype, data):
    if dtype == "F16":
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]
    return list(struct.unpack(f"<{len(data) // 4}f", data))


WRITERS = {"F32": singles, "F16": halves, "BF16": brain_halves}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in sorted(tensors.items()):
        piece = WRITERS[dtype](values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    tensors = {}
    for name, about in header.items():
        start, end = about["data_offsets"]
        tensors[name] = (about["shape"], floats(about["dtype"], data[start:end]))
    return tensors


def apply(layers, at, tensors, x):
    """What the layers make of one row."""
    for place, layer in enumerate(layers):
        name = f"{at}.{place}"
        weight = tensors.get(f"{name}.weight", (None, None))[1]
        bias = tensors.get(f"{name}.bias", (None, None))[1]
        match layer["kind"]:
            case "linear":
                d_in, d_out = layer["d_in"], layer["d_out"]
                y = [sum(weight[o * d_in + i] * x[i] for i in range(d_in)) for o in range(d_out)]
                x = [a + b for a, b in zip(y, bias)] if layer.get("bias", False) else y
            case "rms_norm":
                scale = math.sqrt(sum(v * v for v in x) / len(x) + layer["eps"])
                x = [v / scale * w for v, w in zip(x, weight)]
            case "layer_norm":
                mean = sum(x) / len(x)
                scale = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + layer["eps"])
                x = [(v - mean) / scale * w + b for v, w, b in zip(x, weight, bias)]
            case "gelu":
                x = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
            case "silu":
                x = [v / (1 + math.exp(-v)) for v in x]
            case "residual":
                x = [a + b for a, b in zip(x, apply(layer["layers"], name, tensors, x))]
            case "scale":
                x = [layer["factor"] * v for v in x]
            case other:
                raise SystemExit(f"unknown layer {other}")
    return x


def needed(layers, at):
    """The tensors that layers read, with their shapes."""
    shapes = {}
    for place, layer in enumerate(layers):
        name = f"{at}.{place}"
        match layer["kind"]:
            case "linear":
                shapes[f"{name}.weight"] = [layer["d_out"], layer["d_in"]]
                if layer.get("bias", False):
                    shapes[f"{name}.bias"] = [layer["d_out"]]
            case "rms_norm":
                shapes[f"{name}.weight"] = [layer["d"]]
            case "layer_norm":
                shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = [layer["d"]]
            case "residual":
                shapes |= needed(layer["layers"], name)
    return shapes


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    page = (pathlib.Path(__file__).parents[2] / "docs/adapter-package.md").read_text()
    manifest = json.loads(page.split("```json\n")[1].split("```")[0])
    shapes = needed(manifest["projector"]["layers"], "projector")
    shapes["tokens.cont"] = shapes["tokens.rec"] = [manifest["d_encoder"]]
    tensors, state = {}, 1
    for place, (name, shape) in enumerate(sorted(shapes.items())):
        values = []
        for _ in range(math.prod(shape)):
            state = (state * 1_664_525 + 1_013_904_223) % 2**32
            # 7 bits: exact in every type.
            values.append(((state >> 24) - 128) / 64)
        tensors[name] = (["F32", "F16", "BF16"][place % 3], shape, values)
    weights = folder / manifest["weights"]["file"]
    write_safetensors(weights, tensors)
    manifest["weights"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "adapter.json").write_text(json.dumps(manifest, indent=2) + "\n")

    read = read_safetensors(weights)
    layers = manifest["projector"]["layers"]
    rows = [[0.5, -1.25, 2.0, 0.75], [-3.0, 0.125, 1.5, -0.5], [0.25, 0.5, -0.75, 1.0]]
    expected = {
        "rows": rows,
        "projected": [apply(layers, "projector", read, row) for row in rows],
        "cont": apply(layers, "projector", read, read["tokens.cont"][1]),
        "rec": apply(layers, "projector", read, read["tokens.rec"][1]),
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
