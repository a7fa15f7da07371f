#!/usr/bin/env python3
"""Render snippets of Jinja as transformers' chat templates are rendered, and write what comes out.

`arc-jinja/tests/snippets.txt` has one template a line, in which ⏎ is a line feed. The file written has a list
of what each gave: its text, or `null` where Python raises. One moment in UTC is given to all.

usage: pip install transformers==5.23.0 jinja2==3.1.6
       jinja_snippets.py arc-jinja/tests/snippets.txt arc-jinja/tests/snippets.json
"""

import json
import pathlib
import sys

import chat_templates  # fixes the moment
from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "m": {"b": 1, "a": [2.5, True, None, "x'y"]},
    "l": [1, 2, 3, 4],
    "s": "Hello World",
    "n": None,
    "t": True,
    "f": 1.0,
    "i": 7,
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    "tools": None,
}


def rendered(source):
    try:
        text = _compile_jinja_template(source).render(**CONTEXT)
    except Exception:
        return None
    assert "object at 0x" not in text, source
    return text


def main():
    snippets, target = map(pathlib.Path, sys.argv[1:])
    sources = [line.replace("⏎", "\n") for line in snippets.read_text().split("\n") if line.strip()]
    document = {"seconds": chat_templates.SECONDS, "context": CONTEXT, "snippets": [[s, rendered(s)] for s in sources]}
    target.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
