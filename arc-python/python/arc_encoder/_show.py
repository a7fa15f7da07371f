"""How objects show themselves in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from arc_encoder import Answer, Decoder, Latents, Session

# More would be slow to draw, and nobody reads them.
SHOWN = 400


def table(head: list[str], rows: list[list[str]]) -> str:
    """Cells as they are given: they may be HTML."""
    cells = "".join(f"<th style='text-align:left'>{escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def session(session: Session) -> str:
    """A table of the registry."""
    rows = []
    for entry in session.decoders():
        name = f"<b>{escape(entry.name)}</b>"
        if entry.aliases:
            name += f" <small>{escape(', '.join(entry.aliases))}</small>"
        adapter = escape(entry.fault) if entry.fault else escape(entry.adapter_kind)
        rows.append([name, escape(entry.architecture or ""), adapter, escape(entry.encoder or "")])
    head = f"<p><code>{escape(repr(session))}</code></p>"
    return head + table(["decoder", "architecture", "adapter", "reads latents of"], rows)


def latents(latents: Latents) -> str:
    """A strip: a field for each latent, darker where it is longer, and over it the text that it stands for."""
    n, width = latents.shape
    facts = f"{n} latents of {width} values, of {latents.source_tokens} tokens; encoder {latents.encoder_id[:12]}…"
    shown = min(n, SHOWN)
    texts = latents.texts() if shown else None
    norms = np.linalg.norm(latents.values[:shown], axis=1)
    low, high = (float(norms.min()), float(norms.max())) if shown else (0.0, 0.0)
    fields = []
    for index in range(shown):
        depth = (float(norms[index]) - low) / (high - low) if high > low else 0.5
        title = f"latent {index}, norm {norms[index]:.1f}"
        style = (
            f"background:hsl(210 60% {92 - 35 * depth:.0f}%);color:#111;padding:1px 3px;margin:1px;"
            "border-radius:3px;display:inline-block;white-space:pre-wrap"
        )
        text = escape(texts[index]) if texts is not None else str(index)
        fields.append(f"<span title='{escape(title)}' style='{style}'>{text}</span>")
    rest = f" … and {n - shown} more" if n > shown else ""
    return f"<p>{escape(facts)}</p><div style='font-family:monospace;line-height:1.7'>{''.join(fields)}{rest}</div>"


def answer(answer: Answer) -> str:
    """The text, and what it took."""
    took = f"{answer.prefill_seconds:.2f} s to read, {answer.decode_seconds:.2f} s to write"
    facts = f"{answer.decoder}: {answer.prompt_positions} positions read, {len(answer.token_ids)} tokens, {took}"
    text = f"<blockquote style='white-space:pre-wrap'>{escape(answer.text)}</blockquote>"
    return f"{text}<p><small>{escape(facts)} ({escape(answer.finish)})</small></p>"


def decoder(decoder: Decoder) -> str:
    """What it is, as a table."""
    rows = [
        ["architecture", escape(decoder.architecture)],
        ["width", str(decoder.width)],
        ["vocabulary", str(decoder.vocabulary)],
        ["window", f"{decoder.window} positions"],
        ["adapter", escape(decoder.adapter)],
        ["reads latents of", f"encoder {escape(decoder.encoder_id[:12])}…"],
    ]
    return f"<p><b>{escape(decoder.name)}</b></p>" + table(["", ""], rows)
