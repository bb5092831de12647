"""Writes sentences of novels, one a line, for recipes/minilm.toml.

    python recipes/novel_sentences.py TRAIN.txt.gz OUT.txt
"""

import gzip
import hashlib
import re
import sys

# A sentence ends at a mark, perhaps quoted, before a capital letter.
END = re.compile(r"(?<=[.!?])[\"']?\s+(?=[\"']?[A-Z])")
# Some novels are broken into lines, which cut sentences.
WHOLE = re.compile(r"[A-Z].*[.!?]$")
WORDS = range(8, 41)
COUNT = 60_000


def main(source: str, target: str) -> None:
    with gzip.open(source, "rt", encoding="utf-8") as file:
        text = file.read()
    found = set()
    for paragraph in text.split("\n"):
        for sentence in END.split(paragraph):
            sentence = " ".join(sentence.replace('"', " ").split())
            if len(sentence.split()) in WORDS and WHOLE.match(sentence):
                found.add(sentence)
    # In the order of their digests: a random choice that is the same everywhere.
    chosen = sorted(found, key=lambda sentence: hashlib.sha256(sentence.encode()).digest())[:COUNT]
    with open(target, "w", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in chosen)
    print(f"{len(chosen)} of {len(found)} sentences")


if __name__ == "__main__":
    main(*sys.argv[1:])
