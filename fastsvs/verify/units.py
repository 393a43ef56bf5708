"""Units of measurement: what they measure, and how many of the base unit they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Dimensions = frozenset[tuple[str, int]]

_TABLE: Mapping[str, str] = {
    "length": "m meter metre=1; cm centimeter centimetre=0.01; mm millimeter millimetre=0.001; km kilometer "
    "kilometre=1000; in inch inche=0.0254; ft foot feet=0.3048; yd yard=0.9144; mi mile=1609.344; nm nanometer=1e-9; "
    "um micrometer micron=1e-6; dm decimeter=0.1; angstrom=1e-10; "
    "au=149597870700; pc parsec=3.0856775814913673e16; kpc=3.0856775814913673e19; mpc=3.0856775814913673e22; "
    "ly=9460730472580800",
    **{"field": "t tesla=1; gauss=0.0001", "luminosity": "lsun=1", "solar mass": "msun=1", "solar radius": "rsun=1"},
    "mass": "kg kilogram kilo=1; g gram gm=0.001; mg milligram=1e-6; lb pound=0.45359237; oz ounce=0.028349523125; "
    "tonne=1000",
    "time": "s sec second=1; ms millisecond=0.001; min minute=60; h hr hour=3600; day=86400; week=604800; "
    "ns nanosecond=1e-9",
    "calendar": "month=1; yr year=12; decade=120; century centurie=1200",
    "angle": "deg degree=1",
    "radian": "rad radian=1",
    "dollar": "$ dollar usd buck=1; cent ¢=0.01",
    **{"euro": "€ euro eur=1", "sterling": "£ gbp=1", "yen": "¥ yen jpy=1", "rupee": "₹ rupee rs inr=1"},
    **{"celsius": "celsius degc=1", "fahrenheit": "fahrenheit degf=1", "kelvin": "k kelvin=1"},
    **{
        "energy": "j joule=1; kj kilojoule=1000; kwh=3600000; erg=1e-7; ev=1.602176634e-19; kev=1.602176634e-16; "
        "mev=1.602176634e-13; gev=1.602176634e-10",
        "power": "w watt=1; kw kilowatt=1000",
    },
    **{"force": "n newton=1; kn=1000", "charge": "coulomb=1", "frequency": "hz hertz=1; khz=1000; mhz=1000000"},
    **{"voltage": "v volt=1", "current": "amp ampere=1", "resistance": "ohm=1", "pressure": "pa pascal=1; kpa=1000"},
    **{"amount": "mol mole=1", "number": "unit=1; dozen=12"},
}
_COMPOUND: Mapping[str, tuple[str, Fraction]] = {
    **{"l": ("m^3", Fraction(1, 1000)), "liter": ("m^3", Fraction(1, 1000)), "litre": ("m^3", Fraction(1, 1000))},
    **{"ml": ("cm^3", Fraction(1)), "milliliter": ("cm^3", Fraction(1)), "cc": ("cm^3", Fraction(1))},
    **{"gallon": ("in^3", Fraction(231)), "gal": ("in^3", Fraction(231)), "mph": ("mi/h", Fraction(1))},
    **{"kph": ("km/h", Fraction(1)), "kmh": ("km/h", Fraction(1)), "kmph": ("km/h", Fraction(1))},
    **{"acre": ("ft^2", Fraction(43560)), "hectare": ("m^2", Fraction(10000)), "ha": ("m^2", Fraction(10000))},
}
"""Units that are a multiple of an expression of other units."""
COMMANDS: Mapping[str, str] = {"\\mu ": "u", "\\AA": "angstrom", "\\Omega": "ohm"}
_FACTOR = re.compile(r"([A-Za-z$€£¥₹¢]+)(?:\s?\^\s?\{?\s?(-?\d)\s?\}?)?")
_JOINT = re.compile(r"\s?(/|per(?![a-z])|\\cdot|-(?=[a-z]))\s?|\s")
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measurement. One without dimensions, such as `units`, fits every other."""

    dimensions: Dimensions
    factor: Fraction
    """Number of base units that it is."""


def _names() -> dict[str, tuple[str, Fraction]]:
    names = {}
    for dimension, line in _TABLE.items():
        for group in line.split("; "):
            spellings, _, factor = group.partition("=")
            names.update(
                {name: ("" if dimension == "number" else dimension, Fraction(factor)) for name in spellings.split()}
            )
    return names


_UNITS = _names()


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """Return the unit that a flat text names, as `cm^2`, `miles per hour`, `m/s^2` or `square feet`, or None where it
    names none that is known."""
    powers: dict[str, int] = {}
    factor = Fraction(1)
    sign, pending, end = 1, 1, 0
    text = _spelled(text)
    while end < len(text):
        match = _FACTOR.match(text, end)
        if match is None:
            return None
        end = match.end()
        word, exponent = match[1], int(match[2] or 1)
        if word in _POWERS:
            if word.endswith("ed"):
                return None
            pending = _POWERS[word]
        else:
            unit = _named(word)
            if unit is None:
                return None
            exponent *= sign * pending
            pending = 1
            factor *= unit.factor**exponent
            for name, power in unit.dimensions:
                powers[name] = powers.get(name, 0) + power * exponent
        joint = _JOINT.match(text, end)
        if end < len(text) and joint is None:
            return None
        if joint is not None:
            sign = -1 if joint[1] in ("/", "per") else sign
            end = joint.end()
    if not text or pending != 1:
        return None
    return Unit(frozenset((name, power) for name, power in powers.items() if power), factor)


def _spelled(text: str) -> str:
    text = re.sub(r"([MLR])\s?_\s?\{?\s?\\odot\s?\}?", lambda m: m[1].lower() + "sun", text)
    for command, name in COMMANDS.items():
        text = text.replace(command, name)
    text = " ".join(text.replace("\\$", "$").replace("^\\circ", " deg").split())
    text = re.sub(r"(?i)\bdeg(?:rees?)? ?(C|F|celsius|fahrenheit)\b", lambda m: "deg" + m[1][0].lower(), text)
    text = re.sub(r"([A-Za-z]+) (squared|cubed)\b", lambda m: f"{m[1]}^{_POWERS[m[2]]}", text)
    return " ".join(text.replace(".", " ").strip().split())


def _named(word: str) -> Unit | None:
    lower = word.lower()
    for name in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if name in _UNITS:
            dimension, factor = _UNITS[name]
            return Unit(frozenset([(dimension, 1)] if dimension else []), factor)
        if name in _COMPOUND:
            base, multiple = _COMPOUND[name]
            unit = read_unit(base)
            assert unit is not None
            return Unit(unit.dimensions, unit.factor * multiple)
    return None
