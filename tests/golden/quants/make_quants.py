# /// script
# requires-python = ">=3.10"
# dependencies = ["gguf==0.19.0", "numpy>=2", "safetensors"]
# ///
"""Makes two files with ggml's own Python package, `gguf`.

quants.safetensors: blocks of every storage type, and the values that the package's numpy reference
of the dequantisation reads from them. Blocks are random bits with scales that weights have.
`TYPE.blocks` is [rows, bytes], `TYPE.values` is [rows, 256] float32, to be matched exactly. The last
row of a quantised type has the extremes: all bits of its blocks set or clear, and scales that are
negative, subnormal or zero.

tiny.gguf: metadata of every type, and tensors of one to three dimensions; `matrix` and `last` have
the blocks of Q4_1 and Q6_K, and `unreadable` is of a type that is not supported.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type, GGML_QUANT_SIZES, GGUFWriter
from gguf.quants import dequantize
from safetensors.numpy import save_file

ROWS, COLS = 3, 256
# Where the f16 scales and offsets lie in a block.
HALVES = {
    Type.Q8_0: [0],
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}
EXTREMES = np.array([-0.03, 6e-8, 0.0, 0.02, -6e-5], dtype=np.float16)


def quantised(rng: np.random.Generator, kind: Type) -> np.ndarray:
    block_len, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS, COLS // block_len, block_bytes), dtype=np.uint8)
    extreme = blocks[-1]
    extreme[0::2], extreme[1::2] = 0x00, 0xFF
    for at in HALVES[kind]:
        halves = (rng.standard_normal(blocks.shape[:2]) * 0.02).astype(np.float16)
        halves[-1] = np.resize(EXTREMES, halves.shape[1])
        blocks[:, :, at : at + 2] = halves[..., None].view(np.uint8)
    return blocks.reshape(ROWS, -1)


def plain(rng: np.random.Generator, kind: Type) -> np.ndarray:
    values = (rng.standard_normal((ROWS, COLS)) * 0.05).astype(np.float32)
    values[-1, :4] = [0.0, -0.0, 65504.0, -6e-8]
    if kind == Type.F32:
        return values.view(np.uint8)
    if kind == Type.F16:
        return values.astype(np.float16).view(np.uint8)
    # The upper half of each value: bfloat16, rounded towards zero.
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def write_tiny(path: Path, tensors: dict[str, np.ndarray]) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60_000)
    writer.add_int16("test.i16", -30_000)
    writer.add_uint32("test.u32", 4_000_000_000)
    writer.add_int32("test.i32", -2_000_000_000)
    writer.add_uint64("test.u64", 2**63)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "naïve")
    writer.add_array("test.strings", ["", "Ġthe", "▁the"])
    writer.add_array("test.i32s", [1, -2, 3])
    writer.add_array("test.f32s", [0.5, -1.5])
    writer.add_array("test.bools", [True, False])
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.add_tensor("matrix", tensors["Q4_1.blocks"], raw_dtype=Type.Q4_1)
    writer.add_tensor("cube", np.arange(24, dtype=np.float16).reshape(2, 3, 4))
    writer.add_tensor("unreadable", np.zeros((2, 84), dtype=np.uint8), raw_dtype=Type.Q2_K)
    writer.add_tensor("last", tensors["Q6_K.blocks"], raw_dtype=Type.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    rng = np.random.default_rng(2)
    tensors = {}
    for kind in [Type.F32, Type.F16, Type.BF16, *HALVES]:
        blocks = quantised(rng, kind) if kind in HALVES else plain(rng, kind)
        typed = blocks.view({Type.F32: np.float32, Type.F16: np.float16}.get(kind, np.uint8))
        values = dequantize(typed, kind).astype(np.float32)
        assert values.shape == (ROWS, COLS) and np.isfinite(values).all(), kind
        tensors[f"{kind.name}.blocks"] = blocks
        tensors[f"{kind.name}.values"] = values
    here = Path(__file__)
    save_file(tensors, here.with_name("quants.safetensors"))
    write_tiny(here.with_name("tiny.gguf"), tensors)


if __name__ == "__main__":
    main()
