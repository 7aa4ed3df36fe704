"""Which emoji belong together, and on which side of the split they stand.

A family is everything that must not be divided between training and testing: all artists, genders, skin tones and hair
of one concept, the sequences that are joined to it, and pictures that differ by turning, mirroring or scaling.
"""

import hashlib
from collections.abc import Iterable, Sequence

JOINER = 0x200D
EMOJI_SELECTOR = 0xFE0F
SPLITS = ("train", "validation", "held_out")
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_GENDER_SIGNS = {(0x2640,), (0x2642,)}
_ADULTS = {0x1F468, 0x1F469, 0x1F9D1}
_PEOPLE = _ADULTS | {0x1F466, 0x1F467, 0x1F9D2}
_HAIR = range(0x1F9B0, 0x1F9B4)
_HEART = 0x2764
_HANDSHAKE = 0x1F91D

# Concepts that Unicode gives several code points without a joining sequence.
_TOGETHER = {
    "person": [0x1F9D1, 0x1F468, 0x1F469, 0x1F471, 0x1F9D4],  # person, man, woman, blond hair, beard
    "child": [0x1F9D2, 0x1F466, 0x1F467],
    "older person": [0x1F9D3, 0x1F474, 0x1F475],
    "couple": [0x1F48F, 0x1F491],  # kiss, couple with heart
    "people holding hands": [0x1F46B, 0x1F46C, 0x1F46D],
    "family": [0x1F46A],
    "person with crown": [0x1F934, 0x1F478, 0x1FAC5],
    "pregnant person": [0x1F930, 0x1FAC3, 0x1FAC4],
    "Santa Claus": [0x1F385, 0x1F936],
    "person feeding baby": [0x1F931],
    "person dancing": [0x1F483, 0x1F57A],
    "restroom": [0x1F6B9, 0x1F6BA, 0x1F6BB],
    "clock face": list(range(0x1F550, 0x1F568)),
    # the same drawing mirrored or turned
    "magnifying glass": [0x1F50D, 0x1F50E],
    "fist from the side": [0x1F91B, 0x1F91C],
    "hand from the side": [0x1FAF1, 0x1FAF2],
    "pushing hand": [0x1FAF7, 0x1FAF8],
    "backhand index": [0x1F446, 0x1F447, 0x1F448, 0x1F449],
    "arrow": [0x2B06, 0x2197, 0x27A1, 0x2198, 0x2B07, 0x2199, 0x2B05, 0x2196],
    "two-headed arrow": [0x2195, 0x2194],
    # the same drawing scaled
    "black square": [0x2B1B, 0x25FC, 0x25FE, 0x25AA],
    "white square": [0x2B1C, 0x25FB, 0x25FD, 0x25AB],
    "orange diamond": [0x1F536, 0x1F538],
    "blue diamond": [0x1F537, 0x1F539],
}
_FAMILY_OF: dict[tuple[int, ...], str] = {(0x1FAF1, 0x1FAF2): f"{_HANDSHAKE:x}"}  # handshake of two skin tones
for _family, _codes in _TOGETHER.items():
    _FAMILY_OF.update({(_code,): _family for _code in _codes})
_ROLES = {0x1F384: "Santa Claus", 0x1F37C: "person feeding baby"}  # person + tree, person + bottle


def family_key(codes: Sequence[int]) -> str:
    """Return a key that is equal for all members of a family.

    Args:
        codes: Code points of one emoji.

    Example:
        "man farmer", "woman farmer" and "farmer" are person + sheaf of rice, apart from the gender: `person+1f33e`.
        "black cat" is cat + black square, and stays with "cat"; "face in clouds" with "face without mouth".
    """
    parts = _joined_parts(codes)
    first = parts[0]
    others = [part[0] for part in parts[1:] if part]
    if first[0] in _ADULTS and others:
        return _family_of_person(others)
    whole = sum(parts, ())
    return _FAMILY_OF.get(whole) or _FAMILY_OF.get(first) or "-".join(f"{code:x}" for code in first)


def _joined_parts(codes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the emoji that a sequence joins, without skin tones and, where more is left, without signs of gender."""
    parts: list[tuple[int, ...]] = [()]
    for code in codes:
        if code == JOINER:
            parts.append(())
        elif code not in _SKIN_TONES and code != EMOJI_SELECTOR:
            parts[-1] += (code,)
    without_signs = [part for part in parts if part not in _GENDER_SIGNS]
    return without_signs or parts


def _family_of_person(others: Sequence[int]) -> str:
    """Return the family of a person who is joined to others, to a thing or to hair."""
    if _HEART in others:
        return "couple"
    if _HANDSHAKE in others:
        return "people holding hands"
    if any(code in _PEOPLE for code in others):
        return "family"
    if others[0] in _HAIR:
        return "person"
    return _ROLES.get(others[0], f"person+{others[0]:x}")


def families(named: Iterable[tuple[Sequence[int], str]]) -> list[str]:
    """Return the family of each emoji, as a readable name: that of its simplest member, or one of our own for a few.

    The simplest member has the fewest code points ("red heart", not "heart on fire"); among equals, the first.

    Args:
        named: Pairs of code points and name, in Unicode's order.
    """
    keys = []
    simplest: dict[str, tuple[int, str]] = {}
    for codes, name in named:
        key = family_key(codes)
        keys.append(key)
        if key not in simplest or len(codes) < simplest[key][0]:
            simplest[key] = (len(codes), name)
    return [key if key in _TOGETHER else simplest[key][1] for key in keys]


def split_of_families(members: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Divide families 80/10/10 % within each group, by the hash of their name.

    Within a group the families stand in the order of SHA-256 of their name; the first tenth is held out, the second is
    for validation, the rest for training. No random generator is involved: every version of every library agrees.

    Args:
        members: Pairs (family, group), one for each emoji; a family counts in the group where it appears first.

    Returns:
        Family -> "train", "validation" or "held_out".
    """
    group_of: dict[str, str] = {}
    for family, group in members:
        group_of.setdefault(family, group)
    split_of = {}
    for group in sorted(set(group_of.values())):
        inside = [family for family in group_of if group_of[family] == group]
        inside.sort(key=lambda family: hashlib.sha256(family.encode("utf-8")).hexdigest())
        tenth = round(len(inside) / 10)
        for rank, family in enumerate(inside):
            if rank < tenth:
                split_of[family] = "held_out"
            elif rank < 2 * tenth:
                split_of[family] = "validation"
            else:
                split_of[family] = "train"
    return split_of
