"""A Hugging Face model reads a compressed document in a conversation: python examples/python/transformers_chat.py

It needs `torch`, `transformers`, `gguf` and `accelerate`; the weights are those of the registry's file.
"""

from pathlib import Path

import arc_encoder as arc
from arc_encoder.transformers import chat_inputs
from transformers import AutoModelForCausalLM


def main() -> None:
    session = arc.Session("registry.toml")
    latents = session.compress(Path("examples/washington-1790.txt").read_text())
    decoder = session.decoder("smollm2-135m")
    file = Path(decoder.path)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    messages: list[arc.Message] = [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": ["A message to Congress:\n", latents, "\nWhat is it about?"]},
    ]
    ids = model.generate(**chat_inputs(model, decoder, messages), max_new_tokens=48, do_sample=False)
    print(decoder.detokenise(ids[0].tolist()))


if __name__ == "__main__":
    main()
