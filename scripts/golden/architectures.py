#!/usr/bin/env python3
"""Write tiny random models in Hugging Face's layout, and what transformers computes from them.

One folder per model: `config.json`, safetensors, `tokenizer.json`, and `expected.json` with, for a
prompt of 5 and one of 40 tokens, the token ids, the logits of the last position, the mean next-token
loss and 16 greedy tokens, in float32 with eager attention and no cache. `frequencies.json` holds the
rotation's angles per position for the parameters of Llama 3.1 and 3.2.

Weights are larger than those of real models, and norms and biases far from one and zero, so that
a rotation, a window, a bias or a norm that is left out changes the logits by much.

usage: pip install torch==2.15.0 transformers==5.23.0 safetensors tokenizers
       architectures.py tests/golden/architectures
"""

import json
import pathlib
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    OlmoConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

VOCABULARY = 96
END = 0
GREEDY = 16
LENGTHS = [5, 40]
# Two logits closer than this are too close for another implementation to rank.
CLEAR = 0.02

# A head is wider than `hidden_size / num_attention_heads`, so that the two cannot be confused.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
}
# OLMo and Qwen 2 do not state the width of a head.
PLAIN = {key: value for key, value in SIZES.items() if key != "head_dim"} | {"hidden_size": 32}

# Of the four frequencies of a head one is kept, one lies between, and two are divided.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}

MODELS = {
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3, rms_norm_eps=1e-5),
    "llama-linear": LlamaConfig(
        **SIZES,
        rope_parameters={"rope_type": "linear", "rope_theta": 5_000.0, "factor": 4.0},
        tie_word_embeddings=True,
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral-window": MistralConfig(**SIZES, sliding_window=8),
    "qwen2": Qwen2Config(**PLAIN, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "qwen3": Qwen3Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "smollm3": SmolLM3Config(
        **{**PLAIN, "num_hidden_layers": 4},
        no_rope_layer_interval=2,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
    ),
    "gemma3": Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 4},
        sliding_window=8,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
    "olmo": OlmoConfig(**PLAIN | {"num_key_value_heads": 4}, clip_qkv=None),
}
# In several files, with an index.
SHARDED = {"llama3": "16KB"}

FREQUENCIES = {
    "llama-3.1-8b": {
        "rope_theta": 500_000.0,
        "head_dim": 128,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "llama-3.2-1b": {
        "rope_theta": 500_000.0,
        "head_dim": 64,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def randomise(model, generator):
    """Weights that keep the scale of what passes through, and norms and biases that do much."""
    gemma = model.config.model_type == "gemma3_text"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            random = torch.randn(weight.shape, generator=generator)
            if "embed_tokens" in name:
                # Gemma multiplies by the square root of the width.
                weight.copy_(random * (0.25 if gemma else 1.0))
            elif weight.dim() == 2:
                weight.copy_(random * 1.2 / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(random * 0.5)
            else:
                # Gemma's norms multiply by one more than their weight.
                weight.copy_(random * 0.2 + (0.0 if gemma else 1.0))


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def expected(model, ids):
    """The golden values, or nothing where a greedy token is too close to the next best."""
    whole = logits(model, ids)
    loss = torch.nn.functional.cross_entropy(whole[:-1], torch.tensor(ids[1:]))
    greedy = []
    while len(greedy) < GREEDY:
        best, second = logits(model, ids + greedy)[-1].topk(2)[0]
        if best - second < CLEAR:
            return None
        greedy.append(int(logits(model, ids + greedy)[-1].argmax()))
    if END in greedy:
        return None
    return {"ids": ids, "loss": float(loss), "logits": whole[-1].tolist(), "greedy": greedy}


def build(config):
    for seed in range(1, 1000):
        generator = torch.Generator().manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        randomise(model, generator)
        model.tie_weights()
        prompts = [
            torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS
        ]
        golden = [expected(model, ids) for ids in prompts]
        if all(golden):
            return model, golden
    sys.exit(f"no seed gives {config.model_type} clear greedy tokens")


def tokenizer():
    """A token is a word; the first ends a text."""
    vocabulary = {"</s>": END} | {f"w{i}": i for i in range(1, VOCABULARY)}
    result = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    result.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens(["</s>"])
    return result


def frequencies(parameters):
    fields = dict(parameters)
    head_dim = fields.pop("head_dim")
    config = LlamaConfig(head_dim=head_dim, rope_parameters=fields | {"rope_type": "llama3"})
    values, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return parameters | {"frequencies": values.double().tolist()}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    torch.use_deterministic_algorithms(True)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, config in MODELS.items():
        model, golden = build(config)
        folder = out / name
        model.save_pretrained(folder, max_shard_size=SHARDED.get(name, "1GB"))
        (folder / "generation_config.json").unlink(missing_ok=True)
        tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
        (folder / "expected.json").write_text(json.dumps(golden) + "\n")
        print(name, [max(map(abs, row["logits"])) for row in golden])
    computed = {name: frequencies(parameters) for name, parameters in FREQUENCIES.items()}
    (out / "frequencies.json").write_text(json.dumps(computed, indent=1) + "\n")


if __name__ == "__main__":
    main()
