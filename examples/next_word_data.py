"""What people write on their phones: short messages, drawn from a small grammar, as windows of words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LENGTH = 8
"""Words that the model reads."""

_PEOPLE = ("i", "we", "they")
_ACTS = {
    "buy": ("bread", "milk", "apples", "flowers"),
    "visit": ("grandma", "friends", "paris"),
    "cook": ("soup", "rice", "pasta"),
    "watch": ("football", "films", "birds"),
}
_TIMES = ("today", "tomorrow", "tonight", "soon")

WORDS = (".", "will", *_PEOPLE, *_ACTS, *(word for things in _ACTS.values() for word in things), *_TIMES)
"""The vocabulary; a word is its place here."""
_PLACES = {word: place for place, word in enumerate(WORDS)}


def messages(number: int, num: int = 40) -> dict[str, npt.NDArray[np.int64]]:
    """What phone ``number`` holds: ``num`` windows ``words`` [num, 8], and for each word the one that follows it.

    Each phone prefers some of the acts, as people do; -1 is a person who does not.
    """
    rng = np.random.default_rng(1000 + number)
    preference = np.ones(len(_ACTS)) / len(_ACTS) if number < 0 else rng.dirichlet(np.full(len(_ACTS), 0.5))
    text: list[str] = []
    while len(text) <= num * LENGTH:
        act = str(rng.choice(list(_ACTS), p=preference))
        text += [rng.choice(_PEOPLE), "will", act, rng.choice(_ACTS[act]), rng.choice(_TIMES), "."]
    places = np.array([_PLACES[str(word)] for word in text], np.int64)
    return {
        "words": places[: num * LENGTH].reshape(num, LENGTH),
        "following": places[1 : num * LENGTH + 1].reshape(num, LENGTH),
    }


def read(text: str) -> npt.NDArray[np.int64]:
    """The last eight words of a text as the model reads them, [1, 8]; full stops stand before a shorter one."""
    places = [_PLACES[word] for word in text.split()]
    return np.array([([0] * LENGTH + places)[-LENGTH:]], np.int64)
