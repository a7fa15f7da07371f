"""How objects show themselves."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import arc_encoder as arc


class Balanced(HTMLParser):
    """Fails where tags do not close one another."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(thing: object) -> Balanced:
    parser = Balanced()
    parser.feed(thing._repr_html_())  # type: ignore[attr-defined]
    assert parser.open == []
    return parser


def test_a_session_is_a_table_of_its_registry(session: arc.Session) -> None:
    shown = parsed(session)
    assert shown.tags.count("tr") == 1 + len(session.decoders())
    assert all(entry.name in shown.text for entry in session.decoders())


def test_latents_are_a_strip_of_their_text(session: arc.Session, latents: arc.Latents) -> None:
    marked = session.compress("if a < b && b > c: <script>alert('x')</script>\n" * 3)
    shown = parsed(marked)
    assert "script" not in shown.tags
    assert "if a < b && b > c: <script>alert('x')</script>\n" * 3 in shown.text
    assert shown.tags.count("span") == len(marked)


def test_answers_and_decoders_say_what_they_are(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents
) -> None:
    smollm2 = decoder("smollm2-135m")
    assert "576" in parsed(smollm2).text
    answer = smollm2.ask(latents, "Why?", max_tokens=5)
    assert answer.text in parsed(answer).text
    assert repr(latents).startswith(f"Latents({len(latents)} × 576")
    assert repr(smollm2) == "Decoder('smollm2-135m', adapter 'smollm2-135m')"
