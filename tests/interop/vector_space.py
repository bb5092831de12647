"""Whether small encoders search an index that their ancestor filled.

    HF_ENDPOINT=http://127.0.0.1:8080 python tests/interop/vector_space.py --ancestor all-MiniLM-L6-v2 \
        --sentences DATA/sentences/tatoeba-en.txt.gz DATA/sentences/ewt-en.txt.gz --clinc DATA/clinc150/data_full.json.gz \
        --models genebank/minilm-d3-w192 genebank/minilm-d2-w96

Recall: each sentence asks for its nearest neighbour among the others. The answer is the ancestor's; a small model finds it
if it is among its ten nearest, with its own vector of the question and the ancestor's vectors of all sentences. The
sentences are those that the gene's recipe holds out: one in 64 of all its sentences.

Intents: the questions of CLINC150's test part get the intent of their nearest neighbour in its training part.
"""

import argparse
import gzip
import json

import numpy as np
from sentence_transformers import SentenceTransformer


def read(path: str) -> str:
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        return file.read()


def encode(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    return model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)


def held_out(paths: list[str], all_paths: list[str]) -> list[str]:
    """The sentences of `paths` that are held out; they are counted through `all_paths`, in the order of file names."""
    found, count = [], 0
    for path in sorted(all_paths, key=lambda path: path.rsplit("/", 1)[-1]):
        for line in read(path).splitlines():
            if not line.strip():
                continue
            if count % 64 == 0 and path in paths:
                found.append(line)
            count += 1
    return list(dict.fromkeys(found))


def neighbours(questions: np.ndarray, index: np.ndarray, count: int, skip_own: bool) -> np.ndarray:
    """The `count` nearest rows of `index`; with `skip_own`, question i is row i of the index."""
    similar = questions @ index.T
    if skip_own:
        np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1)[:, :count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ancestor", required=True)
    parser.add_argument("--sentences", nargs="+", required=True)
    parser.add_argument("--others", nargs="*", default=[], help="the recipe's other files of sentences")
    parser.add_argument("--clinc", required=True)
    parser.add_argument("--models", nargs="+", required=True)
    options = parser.parse_args()

    ancestor = SentenceTransformer(options.ancestor)
    sentences = held_out(options.sentences, options.sentences + options.others)
    index = encode(ancestor, sentences)
    answers = neighbours(index, index, 1, skip_own=True)[:, 0]

    clinc = json.loads(read(options.clinc))
    train, test = clinc["train"], clinc["test"]
    intents = np.array([intent for _, intent in train])
    wanted = np.array([intent for _, intent in test])
    known = encode(ancestor, [text for text, _ in train])

    def accuracy(model: SentenceTransformer) -> float:
        nearest = neighbours(encode(model, [text for text, _ in test]), known, 1, skip_own=False)[:, 0]
        return float((intents[nearest] == wanted).mean())

    print(f"{len(sentences)} sentences, {len(train)} and {len(test)} questions")
    print(f"ancestor: intents {accuracy(ancestor):.4f}")
    for name in options.models:
        model = SentenceTransformer(name)
        nearest = neighbours(encode(model, sentences), index, 10, skip_own=True)
        recall = (nearest == answers[:, None]).any(axis=1).mean()
        print(f"{name}: recall@10 {recall:.4f}, intents {accuracy(model):.4f}")


if __name__ == "__main__":
    main()
