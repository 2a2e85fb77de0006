"""The nouns of WordNet 3.0, read from its own file `data.noun`, for training.

The format is that of the manual page wndb(5WN). Miller 1995, "WordNet: A Lexical Database for
English", doi:10.1145/219717.219748.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Lexicographer files of things that can be photographed: animals, artefacts, food, plants.
VISIBLE = frozenset({5, 6, 13, 20})
#: Kinds that say nothing about how a thing looks; a chain of kinds ends before them.
_TOO_GENERAL = frozenset({"artifact", "causal agent", "entity", "living thing", "matter", "object",
                          "organism", "physical entity", "whole"})  # fmt: skip


@dataclass(frozen=True)
class Noun:
    """One sense of a noun: its words, and the numbers of its kinds."""

    number: str
    field: int
    words: tuple[str, ...]
    kinds: tuple[str, ...]


class WordNet:
    """Nouns by their number, which is also that of ImageNet's classes without the leading n."""

    def __init__(self, folder: Path) -> None:
        with (folder / "data.noun").open(encoding="latin-1") as lines:
            nouns = (_noun(line) for line in lines if not line.startswith(" "))
            self.nouns = {noun.number: noun for noun in nouns}
        self._first = dict(_first_senses(folder / "index.noun"))

    def is_first_sense(self, noun: Noun, word: str) -> bool:
        """Whether that is the most common sense of the word."""
        return self._first.get(word.lower()) == noun.number

    def kinds(self, number: str) -> list[str]:
        """The kinds of a noun, nearest first: tench, then cyprinid, …, fish, …, animal."""
        names = []
        while kinds := self.nouns[number].kinds:
            number = kinds[0]
            name = self.nouns[number].words[0]
            if name in _TOO_GENERAL:
                break
            names.append(name)
        return names

    def above(self, number: str) -> set[str]:
        """The noun and all its kinds, on any path."""
        found, waiting = {number}, [number]
        while waiting:
            for kind in self.nouns[waiting.pop()].kinds:
                if kind not in found:
                    found.add(kind)
                    waiting.append(kind)
        return found

    @cached_property
    def information(self) -> dict[str, float]:
        """-log of the share of nouns that are of this kind: 0 for `entity`, highest for a leaf."""
        below = Counter(kind for number in self.nouns for kind in self.above(number))
        return {number: math.log(len(self.nouns) / count) for number, count in below.items()}

    def likeness(self, numbers: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
        """Similarity of nouns and classes, 0 to 1, of shape (numbers, classes).

        Lin 1998, "An Information-Theoretic Definition of Similarity": twice the information of the
        narrowest common kind, over the sum of the information of both.
        """
        kinds = sorted({kind for number in classes for kind in self.above(number)})
        place = {kind: column for column, kind in enumerate(kinds)}
        shared = np.zeros((len(classes), len(kinds)), dtype=np.float32)
        for row, number in enumerate(classes):
            for kind in self.above(number):
                shared[row, place[kind]] = self.information[kind]
        of_classes = np.array([self.information[number] for number in classes], np.float32)
        alike = np.empty((len(numbers), len(classes)), dtype=np.float32)
        for row, number in enumerate(numbers):
            columns = [place[kind] for kind in self.above(number) if kind in place]
            alike[row] = 2 * shared[:, columns].max(1) / (of_classes + self.information[number])
        return alike


def _noun(line: str) -> Noun:
    fields = line.split("|", 1)[0].split()
    count = int(fields[3], 16)
    words = tuple(
        re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]
    )
    pointers = fields[5 + 2 * count :]
    kinds = tuple(
        pointers[place + 1]
        for place in range(0, 4 * int(fields[4 + 2 * count]), 4)
        if pointers[place] in ("@", "@i") and pointers[place + 2] == "n"
    )
    return Noun(fields[0], int(fields[1]), words, kinds)


def _first_senses(index: Path) -> Iterator[tuple[str, str]]:
    with index.open(encoding="latin-1") as lines:
        for line in lines:
            if not line.startswith(" "):
                fields = line.split()
                yield fields[0].replace("_", " "), fields[-int(fields[2])]
