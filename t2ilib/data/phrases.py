"""English for names: from Unicode's short names to words that can stand in a sentence."""

import re
from collections.abc import Sequence

_COUNTRY_WITH_THE = re.compile(
    r"^(United|Bahamas|Netherlands|Philippines|Maldives|Seychelles|Comoros|Gambia|Central African|Dominican Rep|"
    r"Isle of|British Indian|French Southern|Palestinian|European Union|Caribbean Neth|U\.S\.|.*Islands$)"
)
_GROUPS = {"kiss": "kiss between {}", "couple with heart": "couple of {} with a heart", "family": "family of {}"}
_COUNTED = {"man": "two men", "woman": "two women", "boy": "two boys", "girl": "two girls",
            "person": "two people"}

# What stands without an article: stuff, sports, states, and plurals that do not show it.
_NO_ARTICLE = re.compile(
    r"^(Santa Claus|Mrs\. Claus|mx claus|Aries|Taurus|Gemini|Cancer|Leo|Virgo|Libra|Scorpio|Sagittarius|Capricorn|"
    r"Aquarius|Pisces|Ophiuchus|ZZZ|om|dna|customs|baggage claim|left luggage|luggage|passport control|nail polish|"
    r"fog|foggy|fire|coral|wood|yarn|thread|soap|tennis|badminton|bowling|lacrosse|ping pong|field hockey|ice hockey|"
    r"horse racing|camping|construction|building construction|high voltage|cooking|infinity|pouring liquid|information|"
    r"sunrise|sunrise over mountains|sunset|mount fuji|bread|flatbread|baguette bread|stuffed flatbread|bacon|butter|"
    r"salt|garlic|ice|shaved ice|soft ice cream|ice cream|custard|mate|sake|fondue|oden|sushi|spaghetti|popcorn|"
    r"falafel|broccoli|cooked rice|curry rice|canned food|green salad|money with wings|flower playing cards|"
    r"trade mark|copyright|registered|multiply|plus|minus|divide|wireless|locked|unlocked|no .*|input .*|"
    r".*-thirty|.* o'clock|breast-feeding|rolling on the floor laughing)$"
)
_THE = re.compile(r"^(flag of|Statue of Liberty|Tokyo tower|milky way|kaaba|globe showing|map of|star of David|sun$|"
                  r"sun with|sun behind)")
_PLURAL_HEADS = {"people", "men", "women", "lungs", "skis", "thumbs", "palms"}
_SINGULAR_IN_S = ("ss", "us", "is", "'s", "ros")
_AFTER_HEAD = {"with", "of", "in", "on", "at", "and", "behind", "over", "without", "pointing", "under", "for", "as",
               "low", "medium", "high", "done", "not", "from", "to", "by", "holding", "wearing", "getting", "between",
               "curving"}
_VOWEL_SOUND = re.compile(r"^(?!uni|use|eu|one|once|u\.)[aeiou]|^(hour|honest|heir|x-)", re.IGNORECASE)


def plain_name(name: str) -> str:
    """Turn Unicode's short name into words that can stand in a sentence.

    Example:
        "flag: France" -> "flag of France", "man: red hair" -> "man with red hair",
        "family: man, woman, girl, girl" -> "family of a man, a woman and two girls".
    """
    name = name.replace("’", "'").replace("“", '"').replace("”", '"')
    head, colon, tail = name.partition(": ")
    if not colon:
        return name
    tones = []
    parts = []
    for part in tail.split(", "):
        if part.endswith(" skin tone"):
            tones.append(part.removesuffix(" skin tone"))
        else:
            parts.append(part)
    if tones:
        without_tones = plain_name(f"{head}: {', '.join(parts)}") if parts else head
        noun = "tone" if len(tones) == 1 else "tones"
        return f"{without_tones} with {' and '.join(tones)} skin {noun}"
    if head == "flag":
        return f"flag of {_country(tail)}"
    if head in _GROUPS:
        return _GROUPS[head].format(_people(parts))
    if head in ("person", "man", "woman"):
        if tail == "bald":
            return f"bald {head}"
        return f"{head} with a beard" if tail == "beard" else f"{head} with {tail}"
    return f"{head} {tail}"


def _country(name: str) -> str:
    name = re.sub(r" SAR China$| \(Burma\)", "", name).replace(" & ", " and ")
    name = re.sub(r"^Congo - (\w+)$", r"Congo (\1)", name)
    for islands in ("South Sandwich", "Grenadines"):
        if f"and {islands}" in name:
            return name.replace(islands, f"the {islands}")
    return f"the {name}" if _COUNTRY_WITH_THE.match(name) else name


def _people(parts: Sequence[str]) -> str:
    """["man", "woman", "girl", "girl"] -> "a man, a woman and two girls"."""
    words = []
    for part in dict.fromkeys(parts):
        words.append(_COUNTED[part] if parts.count(part) > 1 else f"a {part}")
    return listed(words)


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: "blue, red and white"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def with_article(phrase: str) -> str:
    """Put "a", "an", "the" or nothing before a phrase, by sound and by kind.

    Example:
        "red heart" -> "a red heart", "eye" -> "an eye", "OK hand" -> "an OK hand", "unicorn" -> "a unicorn",
        "SOS button" -> "an SOS button", "glasses" -> "glasses", "flag of France" -> "the flag of France".
    """
    if _THE.match(phrase):
        return f"the {phrase}"
    if _NO_ARTICLE.match(phrase) or _is_plural(phrase):
        return phrase
    return f"an {phrase}" if _begins_with_vowel_sound(phrase) else f"a {phrase}"


def _begins_with_vowel_sound(phrase: str) -> bool:
    first_word = re.split(r"[ -]", phrase)[0].strip('"!')
    no_vowels = not re.search("[AEIOU]", first_word)
    if first_word.isupper() and (no_vowels or first_word == "SOS"):
        return first_word[0] in "AEFHILMNORSX"  # spelled letter by letter: "an NG button", with the sound of "en"
    return bool(_VOWEL_SOUND.match(phrase.strip('"')))


def _is_plural(phrase: str) -> bool:
    """Tell whether the head noun is plural: the word before the first preposition or participle."""
    words = phrase.lower().split()
    head = words[0]
    for before, word in zip(words, words[1:], strict=False):
        begins_participle = word.endswith("ing") and before in ("person", "man", "woman", "face", "bird")
        if word in _AFTER_HEAD or begins_participle:
            break
        head = word
    if words[0] in _PLURAL_HEADS or head in _PLURAL_HEADS:
        return True
    return head.endswith("s") and not head.endswith(_SINGULAR_IN_S) and len(head) > 3
