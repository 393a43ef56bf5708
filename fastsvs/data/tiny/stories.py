"""The stories of the tiny task: what begins a problem, what each operation looks like in it, and what is asked.

`{n}` is a number, `{name}` a person and `{they}` the pronoun. Every sentence keeps its meaning wherever it stands in
the chain. Short words that several stories share keep the vocabulary, and so the model, small.
"""

from __future__ import annotations

from typing import NamedTuple

PEOPLE = {"Tom": "He", "Ann": "She", "Ben": "He", "Eva": "She", "Max": "He", "Mia": "She", "Leo": "He", "Zoe": "She"}


class Story(NamedTuple):
    """The unit of a story, and its sentences."""

    unit: str
    start: str
    add: str
    subtract: str
    multiply: str
    divide: str

    @property
    def ask(self) -> str:
        return f"How many {self.unit}?"


STORIES = (
    # people
    Story(
        "pens",
        "{name} has {n} pens.",
        "{they} buys {n} more.",
        "{they} loses {n}.",
        "{they} gets {n} times as many.",
        "{they} keeps one of {n} equal boxes.",
    ),
    Story(
        "coins",
        "{name} saves {n} coins.",
        "{they} earns {n} more.",
        "{they} spends {n}.",
        "{they} saves {n} times as many.",
        "{they} takes one of {n} equal piles.",
    ),
    Story(
        "cards",
        "{name} owns {n} cards.",
        "{they} wins {n} more.",
        "{they} trades away {n}.",
        "{they} wins {n} times as many.",
        "{they} deals {n} equal hands and takes one.",
    ),
    Story(
        "cookies",
        "{name} bakes {n} cookies.",
        "{they} bakes {n} more.",
        "{they} eats {n}.",
        "{they} bakes {n} times as many.",
        "{they} fills {n} equal bags and takes one.",
    ),
    Story(
        "eggs",
        "{name} finds {n} eggs.",
        "{they} finds {n} more.",
        "{they} breaks {n}.",
        "{they} needs {n} times as many.",
        "{they} cooks one of {n} equal parts.",
    ),
    Story(
        "books",
        "{name} owns {n} books.",
        "{they} gets {n} more.",
        "{they} sells {n}.",
        "{they} wants {n} times as many.",
        "{they} fills {n} equal shelves and reads one.",
    ),
    Story(
        "songs",
        "{name} knows {n} songs.",
        "{they} learns {n} more.",
        "{they} forgets {n}.",
        "{they} learns {n} times as many.",
        "{they} sings one of {n} equal parts.",
    ),
    Story(
        "pages",
        "{name} writes {n} pages.",
        "{they} adds {n}.",
        "{they} cuts {n}.",
        "{they} needs {n} times as many.",
        "{they} keeps one of {n} equal parts.",
    ),
    Story(
        "beads",
        "{name} picks {n} beads.",
        "{they} adds {n}.",
        "{they} drops {n}.",
        "{they} wants {n} times as many.",
        "{they} fills {n} equal strings and wears one.",
    ),
    Story(
        "points",
        "{name} scores {n} points.",
        "{they} wins {n} more.",
        "{they} loses {n}.",
        "{they} scores {n} times as many.",
        "{they} gets one of {n} equal shares.",
    ),
    Story(
        "miles",
        "{name} plans {n} miles.",
        "{they} walks {n} more.",
        "{they} skips {n}.",
        "{they} walks {n} times as many.",
        "{they} walks one of {n} equal parts.",
    ),
    Story(
        "seeds",
        "{name} plants {n} seeds.",
        "{they} plants {n} more.",
        "Birds eat {n}.",
        "{they} plants {n} times as many.",
        "{they} waters one of {n} equal rows.",
    ),
    # places and things
    Story(
        "people",
        "A bus holds {n} people.",
        "Then {n} get on.",
        "Then {n} get off.",
        "A train holds {n} times as many.",
        "They fill {n} equal cars; count one.",
    ),
    Story(
        "cows",
        "A farm has {n} cows.",
        "It buys {n} more.",
        "It sells {n}.",
        "It grows to {n} times as many.",
        "They fill {n} equal barns; count one.",
    ),
    Story(
        "fish",
        "A pond has {n} fish.",
        "Then {n} hatch.",
        "Birds eat {n}.",
        "A lake has {n} times as many.",
        "They fill {n} equal tanks; count one.",
    ),
    Story(
        "liters",
        "A tank holds {n} liters.",
        "Rain adds {n}.",
        "It leaks {n}.",
        "A lake holds {n} times as many.",
        "It fills {n} equal cans; count one.",
    ),
    Story(
        "apples",
        "A tree has {n} apples.",
        "It grows {n} more.",
        "It drops {n}.",
        "A farm has {n} times as many.",
        "They fill {n} equal bags; count one.",
    ),
    Story(
        "shirts",
        "A shop has {n} shirts.",
        "It gets {n} more.",
        "It sells {n}.",
        "It orders {n} times as many.",
        "They fill {n} equal shelves; count one.",
    ),
    Story(
        "kids",
        "A class has {n} kids.",
        "Then {n} join.",
        "Then {n} leave.",
        "A school has {n} times as many.",
        "They form {n} equal teams; count one.",
    ),
    Story(
        "bees",
        "A hive has {n} bees.",
        "Then {n} hatch.",
        "Then {n} fly away.",
        "It grows to {n} times as many.",
        "They form {n} equal hives; count one.",
    ),
    Story(
        "roses",
        "A garden has {n} roses.",
        "It grows {n} more.",
        "Goats eat {n}.",
        "A park has {n} times as many.",
        "They form {n} equal rows; count one.",
    ),
    Story(
        "bricks",
        "A wall has {n} bricks.",
        "A mason adds {n}.",
        "A storm breaks {n}.",
        "A tower has {n} times as many.",
        "They form {n} equal piles; count one.",
    ),
    Story(
        "boats",
        "A bay has {n} boats.",
        "Then {n} sail in.",
        "Then {n} sail away.",
        "A port has {n} times as many.",
        "They form {n} equal rows; count one.",
    ),
    Story(
        "stars",
        "A map shows {n} stars.",
        "A page adds {n}.",
        "Clouds hide {n}.",
        "A book shows {n} times as many.",
        "They form {n} equal groups; count one.",
    ),
)
