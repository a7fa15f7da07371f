#!/usr/bin/env python3
"""Train tiny tokenizers of four families, and write what the `tokenizers` package makes of messy text.

The steps around the vocabulary are those that the `tokenizer.json` of Llama 3, Qwen 2.5, OLMo
(GPT-NeoX) and Gemma 3 state; the files themselves are megabytes, and licensed. One folder per
family: `tokenizer.json` and `expected.json` with, for each text of `messy.json`, the ids where
special tokens are recognised (`ids`), where they are text (`plain`), and with what the
post-processor adds (`prompt`), and the text of `ids` without special tokens (`text`).

usage: pip install tokenizers
       tokenizer_families.py tests/golden/lincoln-1862.txt tests/golden/tokenizers
"""

import json
import pathlib
import sys

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

VOCABULARY = 500
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(pattern, normalizer, specials):
    tokenizer = Tokenizer(models.BPE(ignore_merges=pattern == LLAMA3))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    return tokenizer, trainer


def sentencepiece(specials):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY + 256, special_tokens=[*specials, *bytes_], limit_alphabet=60, show_progress=False
    )
    return tokenizer, trainer


def begins_with(tokenizer, name):
    id_ = tokenizer.token_to_id(name)
    return processors.TemplateProcessing(f"{name} $A", f"{name} $A {name} $B", [(name, id_)])


def families(corpus):
    """Each family's tokenizer, trained."""
    for name, (tokenizer, trainer), beginning in [
        ("llama3", byte_level(LLAMA3, None, ["<|begin_of_text|>", "<|eot_id|>"]), "<|begin_of_text|>"),
        ("qwen2", byte_level(QWEN2, normalizers.NFC(), ["<|endoftext|>", "<|im_end|>"]), None),
        ("olmo", byte_level(None, normalizers.NFC(), ["<|endoftext|>", "<|padding|>"]), None),
        ("gemma3", sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>"]), "<bos>"),
    ]:
        tokenizer.train_from_iterator(corpus, trainer)
        if name == "gemma3":
            # Trained as if they were special, so that none is merged; they are plain tokens.
            document = json.loads(tokenizer.to_str())
            kept = [token for token in document["added_tokens"] if not token["content"].startswith("<0x")]
            tokenizer = Tokenizer.from_str(json.dumps(document | {"added_tokens": kept}))
        # GPT-NeoX has runs of spaces as tokens that are not special.
        if name == "olmo":
            tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (8, 4, 2)])
        if beginning:
            tokenizer.post_processor = begins_with(tokenizer, beginning)
        yield name, tokenizer


def expected(tokenizer, text):
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    prompt = tokenizer.encode(text).ids
    tokenizer.encode_special_tokens = True
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    return {"ids": ids, "plain": plain, "prompt": prompt, "text": decoded}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    out = pathlib.Path(sys.argv[2])
    texts = [case["text"] for case in json.loads((out / "messy.json").read_text())]
    corpus = pathlib.Path(sys.argv[1]).read_text().splitlines() + texts
    for name, tokenizer in families(corpus):
        folder = out / name
        folder.mkdir(exist_ok=True)
        specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        all_texts = texts + [f"a{special} b\n{special}" for special in specials] + ["".join(specials)]
        tokenizer.encode_special_tokens = False
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        golden = [{"of": text} | expected(tokenizer, text) for text in all_texts]
        (folder / "expected.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
