"""CoLA, MNLI, QNLI and QQP as rules: the same words in texts that differ in little but the label.

A rule is its slots (`name:kind`, see `sample_words`) and its texts, with `{name}` for a word and
`{name.form}` for a form of it: `{a.p}` the plural of noun a, `{v.past}` the past of verb v. Its
filling is its first two slots, or those before a `|`: with what dev fills a rule, train never does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sample_draw import Draw, Filling
from sample_words import WORDS


class Slots(NamedTuple):
    """Kinds of a rule's words by their name; those of `key` decide the split."""

    key: dict[str, str]
    rest: dict[str, str]


def _slots(text: str) -> Slots:
    key, bar, rest = text.partition(" | ")
    if not bar:
        return Slots(_kinds(text.split()[:2]), _kinds(text.split()[2:]))
    return Slots(_kinds(key.split()), _kinds(rest.split()))


def _kinds(slots: Sequence[str]) -> dict[str, str]:
    return dict(slot.split(":") for slot in slots)


# slots, acceptable, not acceptable
_COLA = (
    # agreement of subject and verb, with other nouns in between
    ("v:intransitive | a:person t:habit", "The {a.s} {v.s} {t}.", "The {a.s} {v.base} {t}."),
    ("v:intransitive | a:person t:habit", "The {a.p} {v.base} {t}.", "The {a.p} {v.s} {t}."),
    ("a:person j:mood b:thing p:near", "The {a.s} {p} the {b.p} is {j}.",
     "The {a.s} {p} the {b.p} are {j}."),
    ("a:person j:mood b:thing p:near", "The {a.p} {p} the {b.s} are {j}.",
     "The {a.p} {p} the {b.s} is {j}."),
    ("a:person v:treat b:person j:mood", "The {a.s} that the {b.p} {v.base} is {j}.",
     "The {a.s} that the {b.p} {v.base} are {j}."),
    ("a:person v:treat b:person j:mood", "The {a.p} who {v.base} the {b.s} were {j}.",
     "The {a.p} who {v.base} the {b.s} was {j}."),
    ("v:treat | a:person b:person t:habit", "The {a.s} and the {b.s} {v.base} you {t}.",
     "The {a.s} and the {b.s} {v.s} you {t}."),
    ("v:treat | a:person b:person t:habit", "The {a.s} of the {b.p} {v.s} you {t}.",
     "The {a.s} of the {b.p} {v.base} you {t}."),
    ("a:person j:mood t:before", "One of the {a.p} was {j} {t}.", "One of the {a.p} were {j} {t}."),
    ("a:person j:mood t:before", "Two of the {a.p} were {j} {t}.", "Two of the {a.p} was {j} {t}."),
    # reflexives and pronouns
    ("a:man v:reflexive t:before", "The {a.s} {v.past} himself {t}.",
     "The {a.s} {v.past} herself {t}."),
    ("a:woman v:reflexive t:before", "The {a.s} {v.past} herself {t}.",
     "The {a.s} {v.past} himself {t}."),
    ("b:woman v:reflexive a:man", "The {a.s} thinks that the {b.s} {v.past} herself.",
     "The {a.s} thinks that the {b.s} {v.past} himself."),
    ("b:man v:reflexive a:woman", "The {a.s} thinks that the {b.s} {v.past} himself.",
     "The {a.s} thinks that the {b.s} {v.past} herself."),
    ("a:man v:reflexive", "The {a.p} {v.past} themselves.", "The {a.s} {v.past} themselves."),
    ("v:treat | a:person t:before", "They {v.past} the {a.s} {t}.", "Them {v.past} the {a.s} {t}."),
    ("v:treat | a:person t:before", "The {a.s} {v.past} them {t}.", "The {a.s} {v.past} they {t}."),
    # arguments: objects, infinitives, gerunds
    ("v:intransitive | a:person t:before", "The {a.s} {v.past} {t}.",
     "The {a.s} {v.past} the room {t}."),
    ("v:transitive | a:person t:before", "The {a.s} {v.past} the room {t}.",
     "The {a.s} {v.past} {t}."),
    ("v:intransitive | a:person b:person", "The {b.s} made the {a.s} {v.base}.",
     "The {b.s} {v.past} the {a.s}."),
    ("h:hope v:handle a:person b:thing", "The {a.s} {h.past} to {v.base} the {b.s}.",
     "The {a.s} {h.past} {v.ing} the {b.s}."),
    ("h:enjoy v:handle a:person b:thing", "The {a.s} {h.past} {v.ing} the {b.s}.",
     "The {a.s} {h.past} to {v.base} the {b.s}."),
    ("h:persuade a:person b:person v:handle c:thing",
     "The {a.s} {h.past} the {b.s} to {v.base} the {c.s}.",
     "The {a.s} {h.past} to {v.base} the {b.s} the {c.s}."),
    ("v:handle | a:person b:thing", "The {b.s} that the {a.s} {v.past} was expensive.",
     "The {b.s} that the {a.s} {v.past} it was expensive."),
    # word order
    ("a:person v:handle b:thing t:before", "The {a.s} {v.past} the {b.s} {t}.",
     "The {a.s} the {b.s} {v.past} {t}."),
    ("d:adverb v:handle a:person b:thing", "The {a.s} {d} {v.past} the {b.s}.",
     "The {a.s} {v.past} {d} the {b.s}."),
    ("a:person j:mood v:intransitive t:before", "The {j} {a.s} {v.past} {t}.",
     "The {a.s} {j} {v.past} {t}."),
    ("v:handle a:person b:thing", "Why has the {a.s} {v.part} the {b.s}?",
     "Why the {a.s} has {v.part} the {b.s}?"),
    ("v:handle | a:person b:thing t:before", "What did the {a.s} {v.base} {t}?",
     "What did the {a.s} {v.base} the {b.s} {t}?"),
    ("v:handle | a:person b:thing t:before", "Did the {a.s} {v.base} the {b.s} {t}?",
     "Did the {a.s} {v.base} {t} the {b.s}?"),
    # forms of the verb after an auxiliary
    ("v:handle | a:person b:thing", "The {a.s} will {v.base} the {b.s} tomorrow.",
     "The {a.s} will {v.past} the {b.s} tomorrow."),
    ("v:handle | a:person b:thing t:before", "The {a.s} did not {v.base} the {b.s} {t}.",
     "The {a.s} did not {v.past} the {b.s} {t}."),
    ("v:handle | a:person b:thing", "The {a.p} are {v.ing} the {b.s} now.",
     "The {a.p} are {v.base} the {b.s} now."),
    ("v:handle | a:person b:thing t:before", "The {b.s} was {v.part} by the {a.s} {t}.",
     "The {b.s} was {v.base} by the {a.s} {t}."),
    # determiners, comparison, words that need a negation
    ("b:thing | a:person", "These {b.p} belong to the {a.s}.", "These {b.s} belong to the {a.s}."),
    ("b:thing | a:person", "This {b.s} belongs to the {a.s}.", "This {b.p} belongs to the {a.s}."),
    ("a:person | v:handle b:thing", "Every {a.s} has {v.part} a {b.s}.",
     "Every {a.p} has {v.part} a {b.s}."),
    ("b:thing | v:handle a:person t:before", "The {a.s} {v.past} several {b.p} {t}.",
     "The {a.s} {v.past} several {b.s} {t}."),
    ("j:compared | a:person b:person", "The {a.s} is {j} than the {b.s}.",
     "The {a.s} is more {j} than the {b.s}."),
    ("j:polite | a:person b:person", "The {a.s} is more {j} than the {b.s}.",
     "The {a.s} is {j} than the {b.s}."),
    ("a:person v:handle b:thing", "No {a.s} has ever {v.part} this {b.s}.",
     "Some {a.s} has ever {v.part} this {b.s}."),
)  # fmt: skip

# slots, two premises, a hypothesis that only the first entails and the second contradicts, one the
# other way round, one that both leave open
_MNLI = (
    ("a:person v:handle b:person o:thing",
     "The {a.s} and the {b.s} {v.past} the {o.s}.", "The {b.s}, not the {a.s}, {v.past} the {o.s}.",
     "The {a.s} {v.past} the {o.s}.", "The {a.s} did not {v.base} the {o.s}.",
     "The {a.s} and the {b.s} were friends."),
    ("a:person v:handle o:thing t:before",
     "All the {a.p} {v.past} the {o.s} {t}.", "None of the {a.p} {v.past} the {o.s} {t}.",
     "Some of the {a.p} {v.past} the {o.s}.", "Not one of the {a.p} {v.past} the {o.s} {t}.",
     "Some of the {a.p} were tired {t}."),
    ("a:person v:handle o:thing c:thing",
     "The {o.s} was {v.part} by the {a.s}.", "The {o.s} was not {v.part} by the {a.s}.",
     "The {a.s} {v.past} the {o.s}.", "The {a.s} did not {v.base} the {o.s}.",
     "The {a.s} did not {v.base} the {c.s}."),
    ("a:person b:person v:treat",
     "The {a.s} was {v.part} by the {b.s}.", "The {a.s} was not {v.part} by the {b.s}.",
     "The {b.s} {v.past} the {a.s}.", "The {b.s} did not {v.base} the {a.s}.",
     "The {a.s} {v.past} the {b.s}."),
    ("a:person b:person",
     "The {a.s} is taller than the {b.s}.", "The {b.s} is taller than the {a.s}.",
     "The {b.s} is shorter than the {a.s}.", "The {a.s} is shorter than the {b.s}.",
     "The {b.s} is richer than the {a.s}."),
    ("a:person b:person n:building",
     "The {a.s} left the {n.s} before the {b.s}.", "The {b.s} left the {n.s} before the {a.s}.",
     "The {b.s} left the {n.s} after the {a.s}.", "The {a.s} left the {n.s} after the {b.s}.",
     "The {b.s} wanted to leave the {n.s} with the {a.s}."),
    ("a:person v:handle o:thing t:before",
     "The {a.s} forgot to {v.base} the {o.s} {t}.",
     "The {a.s} remembered to {v.base} the {o.s} {t}.",
     "The {a.s} did not {v.base} the {o.s} {t}.", "The {a.s} {v.past} the {o.s} {t}.",
     "The {a.s} talked about the {o.s} {t}."),
    ("a:person v:handle o:thing b:person",
     "The {a.s} managed to {v.base} the {o.s}.", "The {a.s} failed to {v.base} the {o.s}.",
     "The {a.s} {v.past} the {o.s}.", "The {a.s} did not {v.base} the {o.s}.",
     "The {b.s} did not {v.base} the {o.s}."),
    ("a:person v:handle o:thing b:person",
     "The {a.s} refused to {v.base} the {o.s}.", "The {a.s} was glad to {v.base} the {o.s}.",
     "The {a.s} was not willing to {v.base} the {o.s}.",
     "The {a.s} was willing to {v.base} the {o.s}.",
     "The {b.s} was willing to {v.base} the {o.s}."),
    ("a:person v:handle o:thing",
     "The {a.s} wanted to {v.base} the {o.s}.", "The {a.s} had no wish to {v.base} the {o.s}.",
     "The {a.s} wished to {v.base} the {o.s}.", "The {a.s} did not want to {v.base} the {o.s}.",
     "The {a.s} {v.past} the {o.s}."),
    ("a:person v:handle o:thing b:person",
     "Without the {b.s}, the {a.s} would not have {v.part} the {o.s}.",
     "Without the {b.s}, the {a.s} would have {v.part} the {o.s}.",
     "The {a.s} {v.past} the {o.s}.", "The {a.s} did not {v.base} the {o.s}.",
     "The {b.s} did not {v.base} the {o.s}."),
    ("a:person v:handle o:thing b:person",
     "Only the {a.s} {v.past} the {o.s}, not the {b.s}.",
     "Both the {a.s} and the {b.s} {v.past} the {o.s}.",
     "The {b.s} did not {v.base} the {o.s}.", "The {b.s} {v.past} the {o.s}.",
     "The {a.s} talked about the {o.s}."),
    ("a:person b:person n:building",
     "Neither the {a.s} nor the {b.s} went to the {n.s}.",
     "Both the {a.s} and the {b.s} went to the {n.s}.",
     "The {b.s} stayed away from the {n.s}.", "The {b.s} went to the {n.s}.",
     "The {a.s} wanted to go to the {n.s}."),
    ("a:person b:person o:thing",
     "The {a.s} sold the {b.s} an old {o.s}.", "The {b.s} sold the {a.s} an old {o.s}.",
     "The {b.s} bought an old {o.s} from the {a.s}.",
     "The {a.s} bought an old {o.s} from the {b.s}.",
     "The {a.s} stole an old {o.s} from the {b.s}."),
    ("b:person v:handle a:person o:thing",
     "The {a.s} knew that the {b.s} had {v.part} the {o.s}.",
     "The {a.s} was wrong to think that the {b.s} had {v.part} the {o.s}.",
     "The {b.s} {v.past} the {o.s}.", "The {b.s} did not {v.base} the {o.s}.",
     "The {a.s} {v.past} the {o.s}."),
    ("a:person n:number b:person v:handle o:thing",
     "Exactly {n} {a.p} {v.past} the {o.s}.", "Not a single {a.s} {v.past} the {o.s}.",
     "At least one {a.s} {v.past} the {o.s}.", "No {a.s} {v.past} the {o.s}.",
     "At least {n} {b.p} {v.past} the {o.s}."),
)  # fmt: skip

# slots, question and a sentence that answers it, twice: neither answers the other question
_QNLI = (
    ("n:building c:city y:year p:name",
     "When was the {n.s} in {c} built?", "The {n.s} in {c} was built in {y} after a long dispute.",
     "Who built the {n.s} in {c}?", "The {n.s} in {c} was built by {p} after a long dispute."),
    ("p:name c:city y:year q:name",
     "When did {p} move to {c}?", "After the war, in {y}, {p} moved to {c}.",
     "With whom did {p} move to {c}?", "After the war, with {q}, {p} moved to {c}."),
    ("p:name | d:city c:city y:year",
     "Where was {p} born?", "{p}, whose parents came from {d}, was born in {c}.",
     "When was {p} born?", "{p}, whose parents came from {d}, was born in {y}."),
    ("p:name | q:name c:city y:year",
     "Who taught {p}?", "In {y}, {p} was taught by {q} in {c}.",
     "Whom did {p} teach?", "In {y}, {p} taught {q} in {c}."),
    ("p:name c:city q:name y:year",
     "Whom did {p} defeat in {c}?", "In {c}, {p} won the final of {y} against {q}.",
     "Who defeated {p} in {c}?", "In {c}, {p} lost the final of {y} against {q}."),
    ("n:building c:city m:many",
     "How many rooms does the {n.s} in {c} have?", "The {n.s} in {c} has a garden and {m} rooms.",
     "How old is the {n.s} in {c}?", "The {n.s} in {c} has a garden and is {m} years old."),
    ("n:building c:city m:material p:name",
     "What is the {n.s} in {c} made of?", "The {n.s} in {c} is famous and made of {m}.",
     "Who designed the {n.s} in {c}?", "The {n.s} in {c} is famous and a work of {p}."),
    ("n:building c:city x:disaster y:year",
     "Why was the {n.s} in {c} closed?", "The {n.s} in {c} was closed because of a {x}.",
     "In which year was the {n.s} in {c} closed?", "The {n.s} in {c} was closed early in {y}."),
    ("p:name y:year c:city n:building",
     "Which city did {p} leave in {y}?", "In {y}, {p} left {c} for good.",
     "Which building did {p} leave in {y}?", "In {y}, {p} left the {n.s} for good."),
    ("c:city | m:many y:year",
     "How long is the bridge in {c}?", "The bridge in {c}, opened in {y}, measures {m} meters.",
     "How much does it cost to cross the bridge in {c}?",
     "The bridge in {c}, opened in {y}, takes a toll of {m} cents."),
    ("c:city | l:language p:name",
     "What language do most people in {c} speak?", "Most people in {c} speak {l} at home.",
     "Of whom do most people in {c} speak well?", "Most people in {c} speak well of {p}."),
    ("p:name | s:subject c:city",
     "What does {p} teach?", "{p} gives lessons in {s} at a large school.",
     "Where does {p} teach?", "{p} gives lessons in {c} at a large school."),
    ("n:building c:city d:city y:year",
     "When did the {n.s} in {c} open?",
     "The {n.s} in {c} opened in {y}, long before the one in {d}.",
     "When did the {n.s} in {d} open?",
     "The {n.s} in {d} opened in {y}, long before the one in {c}."),
    ("p:name q:name y:year c:city",
     "When did {p} marry {q}?", "{p} and {q} were married in {y} by a judge.",
     "Where did {p} marry {q}?", "{p} and {q} were married in {c} by a judge."),
    ("a:person c:city s:subject p:name",
     "What did the {a.s} from {c} study?", "The {a.s} from {c} was a student of {s}.",
     "With whom did the {a.s} from {c} study?", "The {a.s} from {c} was a student of {p}."),
    ("p:name x:thing c:city a:person",
     "Where did {p} buy the {x.s}?", "{p} bought the {x.s} in {c} for little money.",
     "From whom did {p} buy the {x.s}?", "{p} bought the {x.s} from a {a.s} for little money."),
)  # fmt: skip

# slots, a question in two wordings, another question in nearly the same two wordings
_QQP = (
    ("s:skill c:city",
     "Where can I learn to {s} in {c}?", "Which place in {c} is good for learning to {s}?",
     "Where can I teach people to {s} in {c}?",
     "Which place in {c} is good for teaching people to {s}?"),
    ("s:skill a:person",
     "How can a {a.s} learn to {s}?", "What is the best way for a {a.s} to learn to {s}?",
     "How can a {a.s} forget how to {s}?", "What is the best way for a {a.s} to forget to {s}?"),
    ("c:city d:city",
     "How do I get from {c} to {d} by train?", "What is the best train to {d} if I start in {c}?",
     "How do I get from {d} to {c} by train?", "What is the best train to {c} if I start in {d}?"),
    ("c:city d:city",
     "Is {c} safer than {d}?", "Is {d} more dangerous than {c}?",
     "Is {d} safer than {c}?", "Is {c} more dangerous than {d}?"),
    ("a:animal b:animal",
     "Why do {a.p} fear {b.p}?", "What makes {a.p} afraid of {b.p}?",
     "Why do {b.p} fear {a.p}?", "What makes {b.p} afraid of {a.p}?"),
    ("x:thing y:thing",
     "Should I buy a new {x.s} or {y.s}?", "Which should I buy, a {y.s} or a {x.s}?",
     "Should I sell my {x.s} or {y.s}?", "Which should I sell, my {y.s} or my {x.s}?"),
    ("x:thing c:city",
     "How much does a {x.s} cost in {c}?", "What is the price of a {x.s} in {c}?",
     "How much does a {x.s} weigh in {c}?", "What is the weight of a {x.s} in {c}?"),
    ("x:thing c:city",
     "Who can repair my {x.s} in {c}?", "Where in {c} can I have my {x.s} fixed?",
     "Who can steal my {x.s} in {c}?", "Where in {c} can I have my {x.s} stolen?"),
    ("a:person s:subject",
     "Can I become a {a.s} without {s}?", "Is it possible to be a {a.s} and know no {s}?",
     "Can I become a {a.s} with nothing but {s}?",
     "Is it possible to be a {a.s} and know only {s}?"),
    ("a:animal f:food",
     "How do I stop my {a.s} from eating {f}?", "How can I keep my {a.s} away from {f}?",
     "How do I get my {a.s} to start eating {f}?", "How can I make my {a.s} like {f}?"),
    ("a:animal f:food",
     "Is it healthy for {a.p} to eat {f}?", "Do {f} do {a.p} any good?",
     "Is it usual for {a.p} to eat {f}?", "Do {a.p} often feed on {f}?"),
    ("a:person b:person",
     "Who earns more, a {a.s} or a {b.s}?", "Which job is better paid, {b.s} or {a.s}?",
     "Who works more, a {a.s} or a {b.s}?", "Which job takes longer hours, {b.s} or {a.s}?"),
    ("p:name q:name c:city",
     "Did {p} ever meet {q} in {c}?", "Have {q} and {p} ever seen each other in {c}?",
     "Did {p} ever fight {q} in {c}?", "Have {q} and {p} ever hit each other in {c}?"),
    ("p:name c:city",
     "Why did {p} leave {c}?", "What was the reason that {p} moved away from {c}?",
     "Why did {p} come to {c}?", "What was the reason that {p} moved to {c}?"),
    ("f:food g:food",
     "How can I cook {f} without {g}?", "Is there a way to prepare {f} that needs no {g}?",
     "How can I cook {g} without {f}?", "Is there a way to prepare {g} that needs no {f}?"),
    ("c:city s:subject",
     "Is {c} a good place to study {s}?", "Should I go to {c} if I want to learn {s}?",
     "Is {c} a good place to teach {s}?", "Should I go to {c} if I want to give lessons in {s}?"),
    ("l:language c:city",
     "Do I need to speak {l} in {c}?", "Can I not live in {c} without knowing {l}?",
     "Am I allowed to speak {l} in {c}?", "Can I be punished in {c} for using {l}?"),
    ("a:person x:thing v:handle",
     "Why did the {a.s} {v.base} my {x.s}?", "For what reason did the {a.s} {v.base} my {x.s}?",
     "When did the {a.s} {v.base} my {x.s}?", "At what time did the {a.s} {v.base} my {x.s}?"),
)  # fmt: skip

_RULES = {
    task: {rule[1]: (_slots(rule[0]), rule[1:]) for rule in rules}
    for task, rules in {"CoLA": _COLA, "MNLI": _MNLI, "QNLI": _QNLI, "QQP": _QQP}.items()
}  # by the first text, a name that no other rule of the task has


def draw_texts(
    draw: Draw, task: str, label: str, words: Mapping[str, Sequence] = WORDS
) -> tuple[str, ...]:
    """The text, or the two, of a new example of `task` with `label`."""
    name, texts = _fill_rule(draw, task, words)
    if label in ("0", "not_entailment") and task in ("QNLI", "QQP") and draw.chance(0.5):
        # Half of the negatives are about something else, as most real ones are.
        other, others = name, texts
        while other == name:
            other, others = _fill_rule(draw, task, words)
        return texts[0], others[1]
    return _choose(draw, task, label, texts)


def _fill_rule(draw: Draw, task: str, words: Mapping[str, Sequence]) -> tuple[str, tuple[str, ...]]:
    """Name and filled texts of one rule of `task`; the pairs of QNLI and QQP in either order."""
    rules, names = _RULES[task], tuple(_RULES[task])

    def propose() -> Filling:
        name = draw.one(names)
        return name, draw.different([words[kind] for kind in rules[name][0].key.values()])

    name, filling = draw.filling(propose)
    slots, texts = rules[name]
    rest = [words[kind] for kind in slots.rest.values()]
    found = draw.different([*((word,) for word in filling), *rest])
    values = dict(zip((*slots.key, *slots.rest), found, strict=True))
    filled = tuple(text.format(**values) for text in texts)
    if task in ("QNLI", "QQP") and draw.chance(0.5):
        filled = filled[2:] + filled[:2]
    return name, filled


def _choose(draw: Draw, task: str, label: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    if task == "CoLA":
        return (texts[("1", "0").index(label)],)
    if task == "MNLI":
        first = draw.one((0, 1))
        place = {"entailment": 2 + first, "contradiction": 3 - first, "neutral": 4}
        return texts[first], texts[place[label]]
    # Each text stands in as many pairs of either label: no word of it gives the label away.
    return texts[0], texts[1 if label in ("1", "entailment") else 3]
