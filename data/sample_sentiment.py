"""SST-2's sample: opinions on films whose polarity words alone mislead.

A clause says `words` of one polarity straight or turns them round ("far from dull"); a sentence
weighs two clauses against each other ("although ..., ..."): only the composition tells the label.
"""

from __future__ import annotations

from sample_draw import Draw, Filling

# Words and phrases with a star occur in dev and test only.
_WORDS = {
    ("adjective", True): (
        "superb moving funny clever charming gripping witty fresh graceful thoughtful delightful"
        " honest tender inventive sharp warm thrilling touching elegant lively engaging brilliant"
        " memorable smart wonderful exciting original *dazzling *hilarious *splendid *poignant"
        " *stunning *refreshing"
    ).split(),
    ("adjective", False): (
        "dull clumsy tedious shallow boring predictable lifeless awkward stale silly sloppy bland"
        " pointless tiresome forgettable lazy messy flat muddled stupid annoying hollow dreary"
        " ugly terrible weak confusing *dreadful *pathetic *horrible *monotonous *cheesy"
        " *unbearable"
    ).split(),
    ("noun", True): (
        "triumph delight joy treat gem marvel masterpiece pleasure success revelation wonder"
        " *jewel *victory *feast"
    ).split(),
    ("noun", False): (
        "mess chore bore disaster failure disappointment headache mistake wreck letdown nuisance"
        " *nightmare *fiasco *farce"
    ).split(),
    ("quality", True): (
        "charm wit warmth heart energy imagination suspense depth humor grace intelligence"
        " feeling *passion *magic *finesse"
    ).split(),
    ("quality", False): (
        "clichés nonsense padding noise vulgarity boredom stupidity sentimentality confusion"
        " holes mistakes flaws *errors *gibberish *drivel"
    ).split(),
}
_ASPECTS = (
    "film movie story plot script acting dialogue pacing direction editing ending music camerawork"
    " romance sequel cast mystery drama comedy adventure opening finale premise performance"
).split()

# {a} an aspect of the film, {0} the word; straight: the clause has the polarity of the word.
_STRAIGHT = {
    "adjective": (
        "the {a} is {0}", "the {a} is really {0}", "the {a} is utterly {0}",
        "the {a} turns out to be {0}", "the {a} stays {0} to the end",
        "the {a} is never less than {0}", "the {a} never stops being {0}",
        "the {a} is nothing short of {0}", "nobody denies that the {a} is {0}",
        "the {a} could not be more {0}", "*every minute of the {a} is {0}",
        "*we have to admit that the {a} is {0}",
    ),
    "noun": (
        "the {a} is a {0}", "the {a} is nothing but a {0}", "the {a} is nothing less than a {0}",
        "the {a} proves to be a {0}",
    ),
    "quality": (
        "the {a} is full of {0}", "the {a} has plenty of {0}", "the {a} is not without {0}",
        "there is no lack of {0} in the {a}",
    ),
}  # fmt: skip
_REVERSED = {
    "adjective": (
        "the {a} is not {0}", "the {a} is never {0}", "the {a} is hardly {0}",
        "the {a} is far from {0}", "the {a} is anything but {0}", "the {a} is by no means {0}",
        "nobody would call the {a} {0}", "nothing about the {a} is {0}",
        "nobody finds the {a} {0}", "*the {a} is not remotely {0}", "*the {a} is scarcely {0}",
        "*the {a} is none too {0}", "*the {a} is the opposite of {0}",
        "*the {a} is not what we would call {0}", "*it would be a lie to call the {a} {0}",
    ),
    "noun": (
        "the {a} is not a {0}", "the {a} is anything but a {0}", "the {a} is hardly a {0}",
        "nobody would call the {a} a {0}",
    ),
    "quality": (
        "the {a} is free of {0}", "the {a} lacks any {0}", "the {a} is without {0}",
        "there is no trace of {0} in the {a}",
    ),
}  # fmt: skip
# {0} an adjective of the polarity of the clause, {1} one of the other.
_COMPARED = (
    "the {a} is more {0} than {1}", "the {a} is less {1} than {0}",
    "the {a} is {0} rather than {1}", "the {a} is {0} , not {1}", "the {a} is not {1} but {0}",
)  # fmt: skip

# {yes} the clause that decides, {no} one of the other polarity.
_CONTRASTS = (
    "{no} , but {yes}", "{no} , and yet {yes}", "although {no} , {yes}", "even if {no} , {yes}",
    "{yes} , although {no}", "{yes} , even if {no}", "granted , {no} ; still , {yes}",
    "who cares that {no} when {yes}", "*{no} ; nevertheless , {yes}",
    "*{yes} , despite the fact that {no}",
)  # fmt: skip
_AGREEING = ("{one} , and {two}", "{one} ; what is more , {two}", "{one} ; besides , {two}")


def draw_opinion(draw: Draw, positive: bool) -> str:
    """One sentence, in SST-2's lower-case tokens, that is positive or negative as a whole."""
    aspects = draw.different((_ASPECTS, _ASPECTS))
    kind = draw.one(("single", "single", "contrast", "contrast", "agreeing"))
    if kind == "single":
        return f"{_clause(draw, aspects[0], positive)} ."
    first = _clause(draw, aspects[0], positive)
    if kind == "agreeing":
        second = _clause(draw, aspects[1], positive)
        return f"{draw.one(_AGREEING).format(one=first, two=second)} ."
    second = _clause(draw, aspects[1], not positive)
    frames = [frame for frame in _CONTRASTS if draw.split != "train" or frame[0] != "*"]
    return f"{draw.one(frames).lstrip('*').format(yes=first, no=second)} ."


def _clause(draw: Draw, aspect: str, positive: bool) -> str:
    template, words = draw.filling(lambda: _propose(draw, positive))
    return template.lstrip("*").format(*(word.lstrip("*") for word in words), a=aspect)


def _propose(draw: Draw, positive: bool) -> Filling:
    if draw.chance(0.15):
        lists = (_WORDS["adjective", positive], _WORDS["adjective", not positive])
        return draw.one(_COMPARED), draw.different(lists)
    kind = draw.one(("adjective", "adjective", "adjective", "noun", "quality"))
    straight = draw.chance(0.7)
    template = draw.one((_STRAIGHT if straight else _REVERSED)[kind])
    return template, (draw.one(_WORDS[kind, positive == straight]),)
