"""Asks three models about one compressed document: python examples/python/ask.py

Run it where a `registry.toml` is; models are pulled when they are first needed.
"""

import logging
from pathlib import Path

import arc_encoder as arc


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    text = Path("examples/washington-1790.txt").read_text()
    session = arc.Session("registry.toml", precision="fast")
    latents = session.compress(text, progress=lambda done, tokens: print(f"{done} of {tokens} tokens"))
    print(f"{latents.source_tokens} tokens became {len(latents)} latents")
    for name in ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"]:
        decoder = session.decoder(name)
        print(f"{name}: ", end="")
        for piece in decoder.ask(latents, "Which district is to become a new member of the Union?", stream=True):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    try:
        main()
    except arc.ArcError as error:
        raise SystemExit(f"error: {error}") from error
