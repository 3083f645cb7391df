"""A small grammar of English sentences for the synthesized corpus.

Sentences have 2 to 8 lower-case words from a vocabulary of about 110. The vocabulary was chosen for phone coverage
(every ARPAbet consonant and vowel occurs) and avoids heteronyms ("read", "close", "live"), whose pronunciation a
synthesizer would have to guess.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

#: One entry per word class. A template names classes in upper case; its other words are used as they are.
WORDS: dict[str, str] = {
    "NUMBER": "two three four five six seven eight nine ten twelve twenty thirty",
    "COLOUR": "red blue green yellow orange purple black white brown",
    "THING": "lamp door window box book chair cup coin clock ship train bird fish toy watch",
    "THINGS": "boxes books chairs cups coins ships birds toys",
    "PLACE": "kitchen garden house bridge river village school station beach city hill",
    "PERSON": "john mary george ruth",
    "ROLE": "boy girl teacher judge",
    "VERB": "find bring move push pull wash choose measure paint show",
    "PAST": "found lost carried painted measured saw wanted",
    "SWITCH": "on off",
    "ADJECTIVE": "old young large small usual cheap heavy quiet cold warm loud good",
    "WHERE": "in near behind under by",
    "WHEN": "now today again slowly soon",
}

#: (weight, template). The weights keep the mean near six words, so that most utterances last two to four seconds.
TEMPLATES: tuple[tuple[int, str], ...] = (
    (1, "VERB THINGS"),
    (1, "NUMBER COLOUR THINGS"),
    (2, "VERB the COLOUR THING WHEN"),
    (3, "please VERB the ADJECTIVE COLOUR THING WHEN"),
    (3, "turn the COLOUR THING SWITCH WHEN please"),
    (3, "VERB NUMBER THINGS WHERE the PLACE"),
    (3, "the ADJECTIVE THING is WHERE the PLACE"),
    (4, "PERSON PAST the COLOUR THING WHERE the PLACE"),
    (3, "PERSON and PERSON PAST NUMBER COLOUR THINGS"),
    (4, "the ROLE PAST NUMBER COLOUR THINGS WHEN"),
    (3, "the ADJECTIVE ROLE PAST your COLOUR THING WHEN"),
    (2, "there are NUMBER THINGS WHERE my PLACE"),
    (2, "my ADJECTIVE THING is from this PLACE"),
)


def vocabulary() -> set[str]:
    """Returns all words that may occur in a sentence."""
    words = {word for word_class in WORDS.values() for word in word_class.split()}
    for _, template in TEMPLATES:
        words.update(token for token in template.split() if token.islower())
    return words


def sentences(rng: random.Random) -> Iterator[str]:
    """Yields random sentences, all different; raises a RuntimeError when new ones have become rare."""
    weights = [weight for weight, _ in TEMPLATES]
    templates = [template.split() for _, template in TEMPLATES]
    words = {word_class: text.split() for word_class, text in WORDS.items()}
    seen: set[str] = set()
    misses = 0
    while misses < 1000:
        drawn: list[str] = []
        for token in rng.choices(templates, weights)[0]:
            # A word occurs only once in a sentence, to avoid "john and john".
            choices = [word for word in words[token] if word not in drawn] if token in words else [token]
            drawn.append(rng.choice(choices))
        sentence = " ".join(drawn)
        if sentence in seen:
            misses += 1
            continue
        misses = 0
        seen.add(sentence)
        yield sentence
    raise RuntimeError(f"the grammar is exhausted after {len(seen)} different sentences")
