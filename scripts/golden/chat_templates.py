#!/usr/bin/env python3
"""Render published chat templates as transformers does, and write what comes out.

Every `*.jinja` under the folders is rendered with transformers' own environment (`_compile_jinja_template`)
for each of the conversations below, with and without a generation prompt, at one fixed moment in UTC. The
file written holds, for each template, where it is from, the sha256 of its text, and for each conversation
the sha256 of what was rendered, or what was raised.

Templates are their authors' text. Those whose packages are under the Apache licence 2.0 or the MIT licence
are in `arc-jinja/tests/published`, and the test reads them there; of all others the golden file has the
hashes alone. `cargo test -p arc-jinja --test published -- --ignored` renders them from the folder that
`ARC_CHAT_TEMPLATES` names, in folders named as their sources here. What the golden file has of folders that
are not given stays in it.

usage: pip install transformers==5.24.0 jinja2==3.1.6
       chat_templates.py arc-jinja/tests/published.json FOLDER…
"""

import datetime
import hashlib
import json
import pathlib
import sys

from transformers.utils import chat_template_utils

SECONDS = 1735689599


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 12, 31, 23, 59, 59)


chat_template_utils.datetime = Fixed

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place, <b>now</b> & 'here'.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where, e.g. \"Zürich\""},
                "days": {"type": "integer", "enum": [1, 2, 7], "default": 1},
                "exact": {"type": ["boolean", "null"]},
                "parts": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["place"],
        },
    },
}


def call(arguments):
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        ],
    }


USER = {"role": "user", "content": "Hi!"}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
ANSWER = {"role": "assistant", "content": "<think>\nwell\n</think>\n\nYo, <b>you</b> & me.\n"}
AGAIN = {"role": "user", "content": "  Grüße\r\n\t'a' \"b\" {{ x }} 😀 "}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": '{"sky": "blue", "t": 21.5}'}
PARTS = {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

# Each with what `apply_chat_template` is given beside `tools` and `documents`, which are none unless given.
CONVERSATIONS = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, ANSWER, AGAIN]},
    "all": {"messages": [SYSTEM, USER, ANSWER, AGAIN, ANSWER]},
    "parts": {"messages": [PARTS]},
    "tools": {"messages": [SYSTEM, USER], "tools": [TOOL]},
    "call": {"messages": [USER, call({"place": "Zürich", "days": 2, "exact": True, "parts": ["a", None]}), RESULT],
             "tools": [TOOL]},
    "call-as-text": {"messages": [USER, call('{"place": "Zürich"}'), RESULT, ANSWER, AGAIN], "tools": [TOOL]},
    "documents": {"messages": [USER], "documents": [{"title": "T", "text": "Some text."}]},
    "thinking": {"messages": [USER, {**ANSWER, "reasoning_content": "hm"}, AGAIN], "enable_thinking": True},
    "no-thinking": {"messages": [SYSTEM, USER], "enable_thinking": False},
    "two-users": {"messages": [USER, AGAIN]},
    "nobody": {"messages": []},
}


def rendered(template, conversation, add_generation_prompt):
    context = {"tools": None, "documents": None, **TOKENS, **conversation}
    try:
        text = template.render(add_generation_prompt=add_generation_prompt, **context)
    except Exception as error:
        # What a template raises itself is compared word by word; what Python raises is another matter.
        if type(error).__name__ == "TemplateError":
            return {"raised": " ".join(str(error).split())}
        return {"failed": type(error).__name__}
    if "object at 0x" in text:
        return {"failed": "an address of memory was printed"}
    return {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def main():
    target, *folders = sys.argv[1:]
    folders = [pathlib.Path(folder) for folder in folders]
    target = pathlib.Path(target)
    given = {folder.name for folder in folders}
    before = json.loads(target.read_text())["templates"] if target.exists() else []
    templates = [template for template in before if template["from"] not in given]
    for folder in folders:
        for path in sorted(folder.rglob("*.jinja")):
            source = path.read_text()
            # As it is committed, with the line ends it has.
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry = {"from": folder.name, "name": path.relative_to(folder).as_posix(), "sha256": digest}
            try:
                template = chat_template_utils._compile_jinja_template(source)
            except Exception as error:
                templates.append({**entry, "refused": type(error).__name__})
                continue
            entry["cases"] = {
                name + ("+" if prompt else ""): rendered(template, conversation, prompt)
                for name, conversation in CONVERSATIONS.items()
                for prompt in (False, True)
            }
            templates.append(entry)
    templates.sort(key=lambda template: (template["from"], template["name"]))
    document = {"seconds": SECONDS, "tokens": TOKENS, "conversations": CONVERSATIONS, "templates": templates}
    text = json.dumps(document, ensure_ascii=False, indent=1)
    target.write_text(text + "\n")
    print(f"{len(templates)} templates", file=sys.stderr)


if __name__ == "__main__":
    main()
