"""Searches in the demo's pictures, and which of them show what is asked for."""

from collections.abc import Iterable
from fnmatch import fnmatch

_KITTENS = "animals/cat-* animals/kitten.* animals/tabby-*"
_FISH = "animals/*fish.*"
#: What is asked for, and the pictures that show it. The first five name one thing by its name.
QUERIES = {
    "Neuschwanstein": "places/castle-neuschwanstein.*",
    "Grace Hopper": "people/grace-hopper.*",
    "the Taj Mahal": "places/taj-mahal.*",
    "a kingfisher": "animals/kingfisher.*",
    "a dutar": "music/dutar.*",
    "a cat": _KITTENS,
    "a feline": f"{_KITTENS} animals/jaguars.*",
    "a canine": "animals/golden-* animals/german-* animals/two-dogs-*",
    "birds": "animals/hens.* animals/king* animals/owl-* animals/*-lori* animals/*macaw* "
    "animals/*duck*",
    "aquatic animals": f"{_FISH} animals/crab.* animals/lobster.* nature/coral.*",
    "reptiles": "animals/chameleon* animals/crocodile.* animals/komodo*",
    "medieval fortress": "places/castle-*",
    "beverages": "food/cocktail.* food/cup-of-coffee.*",
    "fruit": "food/fruit-salad.* food/citrus-* food/fig-*",
    "tools": "things/hammer.* things/pliers.* things/screw* things/wrench.* things/scissors.*",
    "musical instruments": "music/* drawings/accordion.* drawings/violin.*",
    "blossoms": "nature/sunflower.* nature/dahlia.* art/daffodils.* animals/*bee*",
    "spacecraft": "vehicles/rocket-* vehicles/space-*",
    "sports equipment": "things/baseball.* things/football.*",
    "kitchenware": "things/frying-pan.* things/cutlery.* things/spoons.* things/*cup*",
}  # fmt: skip


def relevant(query: str, ids: Iterable[str]) -> set[str]:
    """Those that show what is asked for."""
    return {name for name in ids if any(fnmatch(name, each) for each in QUERIES[query].split())}
