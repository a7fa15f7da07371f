"""The page of `arc serve` as somebody uses it; `scripts/check-page` runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ARC = os.environ["ARC_BINARY"]
SCREENSHOTS = os.environ.get("ARC_SCREENSHOTS")
DOCUMENT = (
    "The lighthouse of Morven was built in 1862 by Anna Field – of granite. It has a red door, and its keeper grows "
    "tomatoes on the roof. Ships from Ålesund pass it twice a day, and its bell is heard as far as the mill."
)
QUESTION = "Who built the lighthouse?"
DECODERS = ["smollm2-135m", "gemma3-270m"]
WAYS = ["compressed", "open-book", "truncated"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    preload = ",".join(DECODERS)
    server = subprocess.Popen(
        [ARC, "serve", "--port", "0", "--precision", "exact", "--yes", "--quiet", "--preload", preload],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    found = re.fullmatch(r"listening on (http://\S+)", server.stdout.readline().strip())
    assert found
    yield found.group(1)
    server.terminate()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["ARC_CHROMIUM"], args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, url: str, **more) -> tuple[Page, list[str]]:
    """The page, and what went wrong or elsewhere while it was open."""
    page = browser.new_page(**more)
    strange: list[str] = []
    page.on("console", lambda message: strange.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: strange.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else strange.append(request.url))
    page.goto(url)
    page.wait_for_selector("#decoders input")
    return page, strange


def picture(page: Page, name: str) -> None:
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


def api(url: str, decoder: str, way: str, text: str) -> dict:
    body = {
        "model": decoder, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 96,
        "documents": [{"text": text}], "arc": {"open_book": way != "compressed"},
    }
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_answers_side_by_side_are_those_of_the_server(browser: Browser, url: str) -> None:
    page, strange = opened(browser, url)
    page.fill("#document", DOCUMENT)
    for box in page.query_selector_all("input[name=decoder]"):
        box.set_checked(box.get_attribute("value") in DECODERS)
    page.fill("#question", QUESTION)
    page.click("#ask")
    page.wait_for_selector("#state:text-is('Done.')", timeout=120_000)
    picture(page, "light")
    counted = page.inner_text("#counted")
    tokens, latents = (int(found) for found in re.fullmatch(r"(\d+) tokens in (\d+) latents", counted).groups())
    share = -(-len(DOCUMENT) * latents // tokens)
    widths: dict[str, list[tuple[int, float]]] = {}
    for decoder in DECODERS:
        for way in WAYS:
            card = f"article[data-decoder='{decoder}'][data-way='{way}']"
            assert page.get_attribute(card, "data-state") == "done"
            expected = api(url, decoder, way, DOCUMENT[:share] if way == "truncated" else DOCUMENT)
            assert page.text_content(f"{card} .answer") == expected["choices"][0]["message"]["content"], (decoder, way)
            usage = expected["usage"]
            shown = {name: page.text_content(f"{card} dd[data-name={name}] span") for name in ("positions", "latents", "kv", "first")}
            assert number(shown["positions"]) == usage["prompt_tokens"]
            assert number(shown["latents"]) == usage["arc"]["latents"] == (latents if way == "compressed" else 0)
            assert number(shown["kv"]) == round(expected["arc"]["prompt_kv_bytes"] / 1024)
            assert number(shown["first"]) > 0
            width = page.eval_on_selector(f"{card} dd[data-name=positions] i", "bar => parseFloat(bar.style.width)")
            widths.setdefault("positions", []).append((number(shown["positions"]), width))
    # The longest bar is the largest number, and the others are as long as their share of it.
    most = max(count for count, _ in widths["positions"])
    assert all(abs(width - 100 * count / most) < 0.01 for count, width in widths["positions"])
    # Fewer positions are read from latents than from the text.
    assert widths["positions"][0][0] < widths["positions"][1][0]
    assert not strange, strange
    page.close()


def test_the_strip_shows_what_each_latent_stands_for(browser: Browser, url: str) -> None:
    page, strange = opened(browser, url)
    page.fill("#document", DOCUMENT)
    page.fill("#question", QUESTION)
    page.click("#ask")
    page.wait_for_selector("#latents:not([hidden])", timeout=60_000)
    count = int(page.get_attribute("#which", "max"))
    pieces = []
    page.focus("#which")
    for _ in range(count):
        pieces.append(page.text_content("#piece mark"))
        page.keyboard.press("ArrowRight")
    assert "".join(pieces) == DOCUMENT
    assert page.text_content("#number") == str(count)
    assert len(page.query_selector_all("#strip span")) == count
    page.wait_for_selector("#state:text-is('Done.')", timeout=120_000)
    assert not strange, strange
    page.close()


def test_the_keyboard_is_enough_and_a_phone_in_the_dark_shows_all(browser: Browser, url: str) -> None:
    page, strange = opened(browser, url, viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.keyboard.press("Tab")
    page.keyboard.type(DOCUMENT)
    boxes = len(page.query_selector_all("input[type=checkbox]"))
    for _ in range(boxes + 1):
        page.keyboard.press("Tab")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector("#state:text-is('Done.')", timeout=120_000)
    picture(page, "phone-dark")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is wider than the screen"
    background, ink = page.evaluate("""() => [getComputedStyle(document.documentElement), getComputedStyle(document.body)].map(
        (style, at) => at ? style.color : style.colorScheme)""")
    assert "dark" in background and ink in ("rgb(255, 255, 255)", "rgb(232, 232, 232)"), (background, ink)
    for name in ("document", "question", "key", "which"):
        assert page.query_selector(f"label[for={name}]"), f"{name} has no label"
    assert not strange, strange
    page.close()


def test_what_goes_wrong_is_said(browser: Browser, url: str) -> None:
    page, _ = opened(browser, url)
    page.fill("#document", "word " * 20_000)
    for box in page.query_selector_all("input[name=decoder]"):
        box.set_checked(box.get_attribute("value") == "smollm2-135m")
    # The others have room for what they read, and take their time for it.
    for way in ("compressed", "truncated"):
        page.uncheck(f"input[value={way}]")
    page.fill("#question", QUESTION)
    page.click("#ask")
    page.wait_for_selector("#state:text-is('Done.')", timeout=120_000)
    told = page.text_content("article[data-way=open-book] .answer")
    assert "window" in told, told
    assert page.get_attribute("article[data-way=open-book]", "data-state") == "failed"
    page.close()
