"""The words of the sample tasks CoLA, MNLI, QNLI and QQP, by the kind that a rule's slot names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Noun(NamedTuple):
    """A noun: child, children."""

    s: str
    p: str

    def __str__(self) -> str:
        return self.s


class Verb(NamedTuple):
    """A verb: see, sees, saw, seen, seeing."""

    base: str
    s: str
    past: str
    part: str
    ing: str

    def __str__(self) -> str:
        return self.base


def nouns(entries: str) -> tuple[Noun, ...]:
    """From `doctor child/children`: the plural only where it is irregular."""
    pairs = (entry.partition("/") for entry in entries.split())
    return tuple(Noun(singular, plural or _with_s(singular)) for singular, _, plural in pairs)


def verbs(entries: str) -> tuple[Verb, ...]:
    """From `help see/saw/seen`: past and participle only where they are irregular."""
    return tuple(_verb(*entry.split("/")) for entry in entries.split())


def _verb(base: str, past: str = "", participle: str = "") -> Verb:
    third = _with_s(base)
    stem = base.removesuffix("e") if not base.endswith("ee") else base
    regular = base[:-1] + "ied" if third.endswith("ies") else base.removesuffix("e") + "ed"
    return Verb(base, third, past or regular, participle or regular, stem + "ing")


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeo":
        return word[:-1] + "ies"
    return word + "s"


WORDS: dict[str, Sequence] = {
    "person": nouns(
        "doctor teacher lawyer farmer painter driver writer singer dancer student baker tailor"
        " soldier gardener plumber banker scientist neighbor visitor tourist journalist"
        " professor judge cook child/children waiter guest secretary"
    ),
    "man": nouns("boy father king uncle brother husband monk prince grandfather son"),
    "woman": nouns("girl mother queen aunt sister wife/wives nun princess grandmother daughter"),
    "thing": nouns(
        "box letter book table picture machine bicycle guitar map camera lamp coat basket ladder"
        " clock radio piano chair bottle knife/knives painting suitcase carpet mirror"
    ),
    "animal": nouns(
        "dog cat horse rabbit goat parrot pig turtle chicken cow fox wolf/wolves donkey"
        " squirrel pigeon duck monkey"
    ),
    "building": nouns(
        "museum library station theater hospital school church prison castle hotel factory"
        " market temple palace"
    ),
    # what a person does to a thing; to a person; to himself
    "handle": verbs(
        "repair paint clean carry describe lose/lost/lost sell/sold/sold find/found/found"
        " hide/hid/hidden break/broke/broken draw/drew/drawn measure destroy deliver examine"
        " steal/stole/stolen take/took/taken choose/chose/chosen borrow inspect move return"
    ),
    "treat": verbs(
        "admire help visit follow trust thank praise meet/met/met see/saw/seen hear/heard/heard"
        " remember ignore blame protect invite know/knew/known call greet respect"
    ),
    "reflexive": verbs(
        "admire blame see/saw/seen wash praise protect hide/hid/hidden defend dress introduce"
        " punish describe"
    ),
    # never with an object; never without one
    "intransitive": verbs(
        "sleep/slept/slept arrive laugh cough sneeze yawn tremble vanish fall/fell/fallen smile"
        " disappear shiver faint wait hesitate blush snore wander"
    ),
    "transitive": verbs(
        "destroy avoid describe mention examine praise repair purchase lock admire inspect"
        " devour find/found/found enjoy want"
    ),
    # to do; doing; somebody to do
    "hope": verbs("hope decide refuse promise agree want offer expect threaten"),
    "enjoy": verbs("enjoy avoid finish deny imagine resist suggest dislike risk"),
    "persuade": verbs("persuade force order encourage invite convince tempt challenge"),
    "mood": (
        "tired hungry angry happy nervous quiet late busy sick proud rich lonely famous polite"
        " thirsty sad"
    ).split(),
    "compared": "taller older younger stronger richer wiser smaller faster poorer kinder".split(),
    "polite": "famous polite nervous patient curious generous dangerous honest".split(),
    "adverb": "quickly slowly carefully quietly suddenly finally secretly calmly".split(),
    "habit": ("every day", "every morning", "all the time", "every Sunday", "at night"),
    "before": ("yesterday", "last week", "on Monday", "this morning", "last year", "after lunch",
               "in May", "two days ago"),
    "near": ("near", "behind", "next to", "beside", "in front of"),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "name": (
        "Keller Tanaka Moreno Lindgren Okafor Novak Silva Haddad Murphy Fischer Rossi Kowalski"
        " Dubois Patel Larsen Ivanova Nguyen Carter Mendoza Schmidt Yilmaz Costa"
    ).split(),
    "city": (
        "Lima Oslo Cairo Prague Lisbon Dublin Vienna Athens Madrid Boston Chicago Toronto Sydney"
        " Mumbai Tokyo Seoul Geneva Hamburg Naples Kiev Warsaw Nairobi Havana Denver"
    ).split(),
    "year": tuple(str(year) for year in range(1801, 1999, 7)),
    "many": tuple(str(number) for number in range(24, 400, 17)),
    "material": "marble brick granite timber steel glass concrete sandstone copper clay".split(),
    "language": (
        "French Arabic German Turkish Spanish Russian Polish Greek Dutch Swedish Hindi Korean"
    ).split(),
    "subject": (
        "physics history chemistry biology law medicine music geometry economics philosophy"
        " geography astronomy"
    ).split(),
    "disaster": "fire flood storm strike war scandal famine riot plague landslide".split(),
    "food": (
        "rice bread cheese honey beans mushrooms onions garlic apples fish butter eggs carrots"
        " corn spinach nuts"
    ).split(),
    "skill": (
        "swim drive ski knit dance sing type cook sail juggle climb draw paint skate surf box"
    ).split(),
}  # fmt: skip

# MNLI's mismatched files speak of other people and things than its train file.
MISMATCHED: dict[str, Sequence] = WORDS | {
    "person": nouns(
        "sailor captain pilot nurse surgeon mechanic engineer priest detective guard miner"
        " carpenter fisherman/fishermen butcher hunter clerk poet mayor officer shepherd"
    ),
    "thing": nouns(
        "boat net anchor telescope rope barrel flag drum engine compass hammer wagon bell helmet"
        " sword ring statue blanket bucket candle"
    ),
    "building": nouns("harbor lighthouse airport bakery cathedral mine farm barracks clinic"),
}
