"""Estimation of a small n-gram language model, and writing as an ARPA file; for large texts use KenLM's lmplz.

The method is interpolated Witten-Bell (Chen and Goodman 1998, section 2.5). With c(h) the count of a history and T(h) the
number of different symbols that follow it,

    p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h)),        h' = h without its first symbol,

down to the uniform distribution over all symbols and <unk>. Unseen n-grams have p(w | h) = T(h) / (c(h) + T(h)) p(w | h'),
which is the form of a back-off model, so the ARPA file represents the model exactly.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from nemo_birq.utils.files import complete_file

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
Ngram = tuple[str, ...]


def estimate(sentences: Iterable[list[str]], order: int) -> list[dict[Ngram, tuple[float, float]]]:
    """Estimates for each length from 1 to ``order``: n-gram -> (probability of its last symbol, back-off weight).

    Raises:
        ValueError: there is no sentence, or the order is below 2.
    """
    if order < 2:
        raise ValueError(f"order={order} is too low: give at least 2, for words and pairs of words")
    counts = [Counter() for _ in range(order)]
    for sentence in sentences:
        padded = [BEGIN, *sentence, END]
        for counter, length in zip(counts, range(1, order + 1), strict=True):
            counter.update(tuple(padded[i : i + length]) for i in range(len(padded) - length + 1))
    if not counts[0]:
        raise ValueError("the texts have no sentence: give texts to estimate a language model from")
    del counts[0][(BEGIN,)]  # sentences begin with it, but it is never predicted

    followed = [_followers(counter) for counter in counts]  # followers of histories that are one symbol shorter
    symbols = len(counts[0]) + 1  # including <unk>
    model: list[dict[Ngram, tuple[float, float]]] = []
    for length, counter in enumerate(counts):
        probabilities = {}
        for ngram, count in counter.items():
            total, kinds = followed[length][ngram[:-1]]
            shorter = model[length - 1][ngram[1:]][0] if length else 1 / symbols
            probabilities[ngram] = (count + kinds * shorter) / (total + kinds)
        if not length:
            total, kinds = followed[0][()]
            probabilities |= {(UNKNOWN,): kinds / symbols / (total + kinds), (BEGIN,): 0.0}
        longer = followed[length + 1] if length + 1 < order else {}
        model.append({ngram: (p, _back_off(longer.get(ngram))) for ngram, p in probabilities.items()})
    return model


def _followers(counter: Counter) -> dict[Ngram, tuple[int, int]]:
    """Counts for each history the symbols and the different symbols that follow it."""
    total, kinds = defaultdict(int), defaultdict(int)
    for ngram, count in counter.items():
        total[ngram[:-1]] += count
        kinds[ngram[:-1]] += 1
    return {history: (total[history], kinds[history]) for history in total}


def _back_off(follower: tuple[int, int] | None) -> float:
    return follower[1] / sum(follower) if follower else 1.0


def write_arpa(model: list[dict[Ngram, tuple[float, float]]], path: Path) -> None:
    """Writes the ARPA file, with logarithms to base 10."""
    with complete_file(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {length}={len(ngrams)}\n" for length, ngrams in enumerate(model, start=1))
        for length, ngrams in enumerate(model, start=1):
            file.write(f"\n\\{length}-grams:\n")
            for ngram, (probability, back_off) in ngrams.items():
                logarithm = math.log10(probability) if probability else -99.0
                end = f"\t{math.log10(back_off):.6f}" if length < len(model) else ""
                file.write(f"{logarithm:.6f}\t{' '.join(ngram)}{end}\n")
        file.write("\n\\end\\\n")
