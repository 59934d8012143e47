"""Sides in the names of joints, and the pairs of joints whose names differ only in the side.

Sides are words (left_eye, eyeRight, lefteye, 左眼), letters (L_Eye, eye.r, LEye, forelegL1), letters in codes (LF_paw, FR) or
letters joined to a word (lhip, RSho, eyel).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]
Pairs = tuple[tuple[int, int], ...]

_TOKEN = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_SIDE = re.compile("left|right")
_OPPOSITE = {"left": "right", "right": "left", "l": "r", "r": "l"}
_ABBREVIATIONS = {"l": "left", "r": "right", "lft": "left", "rgt": "right"}
_NOT_SIDES = {"cleft", "leftover", "bright", "fright", "upright", "outright", "wright"}
_CODES = {
    "lf", "rf", "lh", "rh", "lb", "rb", "lm", "rm", "lr", "rr", "fl", "fr", "hl", "hr", "bl", "br", "ml", "mr", "tl", "tr",
    "rl",
}  # fmt: skip
"""Left or right with front, hind, back, middle, rear or top."""
_PARTS = {
    "ank", "ankle", "antenna", "arm", "bow", "brow", "calf", "cheek", "clavicle", "collar", "ear", "elb", "elbow", "eye",
    "eyebrow", "fin", "finger", "foot", "forearm", "hand", "heel", "hem", "hip", "hoof", "horn", "kne", "knee", "leg",
    "nostril", "palm", "paw", "pupil", "shin", "sho", "shoulder", "sleeve", "thigh", "thumb", "toe", "wing", "wri", "wrist",
}  # fmt: skip
"""Words, and their usual abbreviations, that a letter may be joined to."""


@dataclass(frozen=True)
class _Reading:
    """A side that was read out of a name.

    form: how the name tells the side. key, mirrored: the name, and the name of the other side, in lower case. is_certain: whether
    the name tells a side even if it has no partner. is_plausible: whether a single pair of this form suffices; else there must be
    two.
    """

    form: str
    side: Side
    key: str
    mirrored: str
    is_certain: bool
    is_plausible: bool = True


def find_pairs(joints: Sequence[str]) -> Pairs:
    """Return pairs of joint numbers whose names differ only in the side; the lower number first."""
    return tuple(sorted(_find_pairs(joints)))


def find_unpaired(joints: Sequence[str]) -> tuple[int, ...]:
    """Return the joints whose names tell a side and that are in no pair."""
    pairs = _find_pairs(joints)
    paired, forms = {joint for pair in pairs for joint in pair}, set(pairs.values())
    return tuple(
        joint
        for joint, readings in enumerate(_read_all(joints))
        if joint not in paired
        and any(reading.is_certain or (reading.is_plausible and reading.form in forms) for reading in readings)
    )


def find_side(joint: str) -> Side | None:
    """Return the side that a name tells, None if there is none."""
    return next((reading.side for reading in _read(joint) if reading.is_plausible), None)


def _find_pairs(joints: Sequence[str]) -> dict[tuple[int, int], str]:
    """Return each pair of joints and the form of their names. A joint with several possible partners has none."""
    names = _read_all(joints)
    number = {(reading.form, reading.key): joint for joint, readings in enumerate(names) for reading in readings}
    pairs: dict[tuple[int, int], _Reading] = {}
    for readings in names:
        for reading in readings:
            first, second = number[reading.form, reading.key], number.get((reading.form, reading.mirrored))
            if second is not None:
                pairs[min(first, second), max(first, second)] = reading
    counts = Counter(reading.form for reading in pairs.values())
    pairs = {pair: reading for pair, reading in pairs.items() if reading.is_plausible or counts[reading.form] > 1}
    partners = Counter(joint for pair in pairs for joint in pair)
    return {pair: reading.form for pair, reading in pairs.items() if all(partners[joint] == 1 for joint in pair)}


def _read_all(joints: Sequence[str]) -> list[list[_Reading]]:
    """Return the readings of every name. L and R are no sides if other letters are names too, as in A, B, C, …"""
    letters = {joint.strip().lower() for joint in joints if len(joint.strip()) == 1 and joint.strip().isalpha()}
    has_alphabet = bool(letters - {"l", "r", "c", "m"})
    return [[] if has_alphabet and len(joint.strip()) == 1 else list(_read(joint)) for joint in joints]


def _read(joint: str) -> Iterator[_Reading]:
    tokens = [token.lower() for token in _TOKEN.findall(joint.replace("左", " left ").replace("右", " right "))]
    words = [_ABBREVIATIONS.get(token, token) for token in tokens]
    key = " ".join(_SIDE.sub(r" \g<0> ", " ".join(words)).split())  # lefteye, left_eye and l_eye become left eye
    sides = _SIDE.findall(key)
    if sides:
        mirrored = _SIDE.sub(lambda match: _OPPOSITE[match[0]], key)
        is_certain = len(set(sides)) == 1 and any(_tells_side(tokens, place) for place in range(len(tokens)))
        form = "word" if is_certain else "letter alone" if len(set(sides)) == 1 else "both sides"
        yield _Reading(form, "left" if sides[0] == "left" else "right", key, mirrored, is_certain)
        return
    for place, word in enumerate(tokens):
        for form, letter, rest in (("prefix", word[0], word[1:]), ("suffix", word[-1], word[:-1])):
            is_code, is_part = word in _CODES, rest in _PARTS and word != "rear"
            if letter not in "lr" or not (is_code or is_part or len(rest) > 2):
                continue
            other = _OPPOSITE[letter] + rest if form == "prefix" else rest + _OPPOSITE[letter]
            yield _Reading(
                form=f"{'code' if is_code else 'letter'} {form}",
                side="left" if letter == "l" else "right",
                key=" ".join(tokens),
                mirrored=" ".join([*tokens[:place], other, *tokens[place + 1 :]]),
                is_certain=is_part or (is_code and word.upper() in joint and any(len(other) > 2 for other in tokens)),
                is_plausible=is_code or is_part,
            )


def _tells_side(tokens: Sequence[str], place: int) -> bool:
    """Return whether a token surely tells a side; l and r alone or before a number do not, as in the vertebra L5."""
    token, following = tokens[place], tokens[place + 1 : place + 2]
    if token in ("l", "r"):
        return not any(other.isdigit() for other in following) and any(len(other) > 1 and not other.isdigit() for other in tokens)
    return token not in _NOT_SIDES and (token.startswith(("left", "right")) or token.endswith(("left", "right")))
