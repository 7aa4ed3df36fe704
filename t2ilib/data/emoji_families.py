"""Which emoji belong together, and on which side of the split they stand.

A family is everything that must not be divided between training and testing: all artists, genders, skin tones and hair
of one concept, the sequences that are joined to it, and pictures that differ by turning, mirroring or scaling.
"""

import hashlib
from collections.abc import Iterable, Sequence

JOINER = 0x200D
SPLITS = ("train", "validation", "held_out")
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_GENDER_SIGNS = {(0x2640,), (0x2642,)}
_ADULTS = {0x1F468, 0x1F469, 0x1F9D1}
_PEOPLE = _ADULTS | {0x1F466, 0x1F467, 0x1F9D2}
_HAIR = range(0x1F9B0, 0x1F9B4)
_HEART, _HANDSHAKE = 0x2764, 0x1F91D

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
_FAMILY_OF = {(code,): family for family, codes in _TOGETHER.items() for code in codes}
_FAMILY_OF[(0x1FAF1, 0x1FAF2)] = f"{_HANDSHAKE:x}"  # handshake of two skin tones
_ROLES = {0x1F384: "Santa Claus", 0x1F37C: "person feeding baby"}  # person + tree, person + bottle


def family_key(codes: Sequence[int]) -> str:
    """Return a key that is equal for all members of a family.

    Args:
        codes: Code points of one emoji.

    Example:
        "man farmer", "woman farmer" and "farmer" are person + sheaf of rice, apart from the gender: `person+1f33e`.
        "black cat" is cat + black square, and stays with "cat"; "face in clouds" with "face without mouth".
    """
    codes = [code for code in codes if code not in _SKIN_TONES and code != 0xFE0F]
    parts, part = [], []
    for code in [*codes, JOINER]:
        if code == JOINER:
            parts.append(tuple(part))
            part = []
        else:
            part.append(code)
    parts = [p for p in parts if p not in _GENDER_SIGNS] or parts
    joined = [p[0] for p in parts[1:] if p]
    if parts[0][0] in _ADULTS and joined:
        if _HEART in joined:
            return "couple"
        if _HANDSHAKE in joined:
            return "people holding hands"
        if any(code in _PEOPLE for code in joined):
            return "family"
        if joined[0] in _HAIR:
            return "person"
        return _ROLES.get(joined[0], f"person+{joined[0]:x}")
    both = tuple(code for p in parts for code in p)
    return _FAMILY_OF.get(both) or _FAMILY_OF.get(parts[0]) or "-".join(f"{code:x}" for code in parts[0])


def families(named: Iterable[tuple[Sequence[int], str]]) -> list[str]:
    """Return the family of each emoji, as a readable name: that of its simplest member, or one of our own for a few.

    The simplest member has the fewest code points ("red heart", not "heart on fire"); among equals, the first.

    Args:
        named: Pairs of code points and name, in Unicode's order.
    """
    keys, best = [], {}
    for codes, name in named:
        key = family_key(codes)
        keys.append(key)
        if key not in best or len(codes) < best[key][0]:
            best[key] = (len(codes), name)
    return [key if key in _TOGETHER else best[key][1] for key in keys]


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
    result = {}
    for group in sorted(set(group_of.values())):
        inside = [family for family in group_of if group_of[family] == group]
        inside.sort(key=lambda family: hashlib.sha256(family.encode("utf-8")).hexdigest())
        tenth = round(len(inside) / 10)
        for rank, family in enumerate(inside):
            side = "held_out" if rank < tenth else "validation" if rank < 2 * tenth else "train"
            result[family] = side
    return result
