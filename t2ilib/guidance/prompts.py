"""Prompts: texts, pictures, noise or vectors with a weight, a stop, a region of the picture and a span of the run."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadParameter, MissingInput, check_name
from ..media import Box, check_box
from ..runtime import warn_fallback

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
LARGEST_WEIGHT = 100.0  # what is larger is no weight: "Blade Runner: 2049"
UNUSUAL_WEIGHT = 10.0  # what is larger is read as a weight, with a warning: "Area: 51"
CLOCK_TIME = re.compile(r"(^|\D)([01]?\d|2[0-3]):[0-5]\d$")
NO_STOP = -math.inf
REGIONS = "a mapping of prompts to boxes, such as {'a star': (0, 0, 0.5, 0.5)}"
KINDS = ("text", "image", "noise", "vector")


@dataclass(frozen=True)
class Prompt:
    """One target that a picture is pulled to, or pushed away from.

    Attributes:
        text: what the picture shall show, or shall not show if `weight` is negative; the path of an "image", the seed
            of a "noise", any label of a "vector".
        weight: strength of the pull; a negative one pushes away.
        stop: once the loss of a cutout falls below it, that cutout pulls no further; -inf never stops. For a negative
            weight the loss itself is negative (-theta^2 / 2), so a useful stop is negative too.
        kind: where the target comes from: a "text" or an "image" that CLIP encodes, "noise" (a Gaussian vector), or a
            "vector" in CLIP's space.
        region: box x0, y0, x1, y1 in shares of the picture, from its upper left corner, to which the prompt is
            confined; None is the whole picture.
        span: first and last moment of the run, in shares of its steps. fade: share of the steps over which the prompt
            comes and goes at those moments.
        vector: the numbers of a "vector".
    """

    text: str
    weight: float = 1.0
    stop: float = NO_STOP
    kind: str = "text"
    region: Box | None = None
    span: tuple[float, float] = (0.0, 1.0)
    fade: float = 0.0
    vector: tuple[float, ...] | None = None

    def __post_init__(self):
        if not isinstance(self.text, str) or not self.text.strip():
            raise BadParameter(f"a prompt needs text, got {self.text!r}; write for example 'a red heart:0.5'")
        self._check_types()
        if not math.isfinite(self.weight):
            raise BadParameter(f"weight of prompt {self.text!r} must be finite, got {self.weight}")
        if math.isnan(self.stop) or self.stop == math.inf:
            raise BadParameter(f"stop of prompt {self.text!r} must be a number or -inf, got {self.stop}")
        check_name("kind of prompt", self.kind, KINDS)
        if (self.vector is not None) != (self.kind == "vector"):
            raise BadParameter(f"prompt {self.text!r}: kind 'vector' goes with vector=(...), and only that")
        if self.region is not None:
            check_box(self.region, f"region of prompt {self.text!r}")
        span_fits = len(self.span) == 2 and 0 <= self.span[0] < self.span[1] <= 1
        if not span_fits or not 0 <= self.fade <= 1:
            raise BadParameter(f"span of prompt {self.text!r} must be (start, end) with 0 <= start < end <= 1 and fade "
                               f"in [0, 1], got {self.span} and {self.fade}")

    def _check_types(self) -> None:
        """Make tuples of floats of the lists, and refuse what are no numbers."""
        for name in ("weight", "stop", "fade"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BadParameter(f"{name} of prompt {self.text!r} must be a number, got {value!r}")
        for name in ("region", "span", "vector"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                numbers = tuple(float(number) for number in value)
            except (TypeError, ValueError) as error:
                raise BadParameter(f"{name} of prompt {self.text!r} must be numbers, got {value!r}") from error
            object.__setattr__(self, name, numbers)  # the dataclass is frozen

    def strength(self, progress: float) -> float:
        """Return which part of the weight pulls at a moment of the run, both in [0, 1].

        At an inner end of the span it rises or falls linearly over `fade`, centred there, so that neighbours in a
        story add up to 1.
        """
        start, end = self.span
        strength = 1.0
        if start > 0:
            strength *= self._risen(progress, start)
        if end < 1:
            strength *= 1 - self._risen(progress, end)
        return strength

    def _risen(self, progress: float, moment: float) -> float:
        """Return how far a rise around a moment has come: from 0 before it to 1 after it."""
        if self.fade == 0:
            return float(progress >= moment)
        return min(max((progress - moment) / self.fade + 0.5, 0.0), 1.0)

    def to_dict(self) -> dict:
        """Return the fields that differ from their defaults, as plain JSON types; `Prompt(**d)` rebuilds the prompt."""
        result = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                result[field.name] = list(value) if isinstance(value, tuple) else value
        return result


def parse_prompt(spec: str | Prompt | Mapping) -> Prompt:
    r"""Read `text`, `text:weight` or `text:weight:stop`; only numbers at the end are peeled off.

    Colons inside the text are safe ("Star Wars: a poster:0.5" has weight 0.5). So are ratios at the end ("16:9",
    "Psalm 23:1", "a clock at 12:30"): a whole number behind a digit and a colon is text; with a space before the colon
    it is a weight. Numbers beyond 100 are text ("Blade Runner: 2049"). A warning says where that may surprise. Where a
    number after a colon belongs to the text all the same, write the colon as `\:`.

    Raises:
        BadParameter: no text is left, or a number is out of range.
    """
    if isinstance(spec, Prompt):
        return spec
    if isinstance(spec, Mapping):
        fields = [field.name for field in dataclasses.fields(Prompt)]
        for name in spec:
            check_name("field of a prompt", name, fields)
        if "text" not in spec:
            raise BadParameter(f"a prompt needs 'text', got only {', '.join(spec) or 'an empty mapping'}")
        return Prompt(**spec)
    if not isinstance(spec, str):
        raise BadParameter(f"a prompt must be text or a Prompt, got {type(spec).__name__}")
    spec = spec.strip()
    text, numbers = _peel_numbers(spec, is_words=True)
    if numbers == [NO_STOP]:
        raise BadParameter(f"prompt {spec!r}: -inf is a stop and follows a weight, as in 'text:1:-inf'")
    if numbers and abs(numbers[0]) > LARGEST_WEIGHT:
        text, numbers = spec, []
    _warn_of_surprise(spec, text, numbers)
    return Prompt(text.replace(r"\:", ":").strip(), *numbers)


def _peel_numbers(text: str, *, is_words: bool) -> tuple[str, list[float]]:
    """Return a text without the weight and the stop at its end, and these.

    Args:
        is_words: a ratio such as 16:9 at the end belongs to the text.
    """
    numbers: list[float] = []
    while len(numbers) < 2:
        before, colon, value = text.rpartition(":")
        value = value.strip()
        # "-inf" is a stop, so it can only be the last of two numbers; "nan" and "infinity" are words
        is_number = NUMBER.fullmatch(value) or (value == "-inf" and not numbers)
        if not colon or before.endswith("\\") or not is_number or (is_words and _is_ratio(before, value)):
            break
        numbers.insert(0, float(value))
        text = before
    return text, numbers


def _is_ratio(before: str, value: str) -> bool:
    """Return whether a whole number behind a digit and a colon belongs to the words, as in "16:9" or "12:30".

    It does not in "text:2:1", where a number stands before it too, nor where the writer has marked another colon.
    """
    if not (before[-1:].isdigit() and value.isdigit()) or r"\:" in before:
        return False
    _, colon, last = before.rpartition(":")
    return not (colon and NUMBER.fullmatch(last.strip()))


def _warn_of_surprise(spec: str, text: str, numbers: list[float]) -> None:
    """Warn where a number at the end of a prompt could be meant in another way than it was read."""
    before, _, value = text.rpartition(":")
    ends_in_number = before and not before.endswith("\\") and NUMBER.fullmatch(value.strip())
    if not numbers and ends_in_number and not CLOCK_TIME.search(text):
        warn_fallback(f"prompt {spec!r} has no weight: its last number is read as words; a weight is at most "
                      f"{LARGEST_WEIGHT:.0f}, and behind a digit a space stands before its colon")
    elif numbers and abs(numbers[0]) > UNUSUAL_WEIGHT:
        warn_fallback(f"prompt {spec!r} is read as {text!r} with weight {numbers[0]:g}; write '\\:' for the colon if "
                      "the number belongs to the words")


def parse_prompts(spec: str | Prompt | Mapping | Sequence, *, cross_fade: float = 0.0) -> list[Prompt]:
    r"""Read several prompts for one picture: `|` separates prompts, `^` the scenes of a story.

    Scenes share the run evenly, one after another. Where `|` or `^` belongs to the text, write `\|` or `\^`.

    Args:
        spec: text, a Prompt, the dictionary of one, or a list of these.
        cross_fade: share of a scene's length over which it blends with the next, in [0, 1].

    Example:
        parse_prompts("a castle | oil painting:0.5 | text:-0.3")
        parse_prompts("a seed ^ a flower ^ a withered flower", cross_fade=0.5)

    Raises:
        BadParameter: a part is empty, or no prompt has a weight other than zero.
    """
    parts = spec if isinstance(spec, (list, tuple)) else [spec]
    prompts = []
    for part in parts:
        prompts += _parse_story(part, cross_fade) if isinstance(part, str) else [parse_prompt(part)]
    if not any(prompt.weight for prompt in prompts):
        raise BadParameter(f"no prompt pulls: got {spec!r}; give at least one a weight other than 0")
    return prompts


def _parse_story(text: str, cross_fade: float) -> list[Prompt]:
    """Return the prompts of all scenes of a text, each with the span of its scene."""
    scenes = _split(text, "^")
    count = len(scenes)
    prompts = []
    for k, scene in enumerate(scenes):
        for spec in _split(scene, "|"):
            prompt = parse_prompt(spec)
            if count > 1:
                span = (k / count, (k + 1) / count)
                prompt = dataclasses.replace(prompt, span=span, fade=cross_fade / count)
            prompts.append(prompt)
    return prompts


def _split(text: str, sign: str) -> list[str]:
    """Split a text at a sign, except where a backslash stands before it."""
    pieces = re.split(rf"(?<!\\){re.escape(sign)}", text)
    if len(pieces) > 1 and not all(piece.strip() for piece in pieces):
        raise BadParameter(f"prompt {text!r} has an empty part; write one {sign!r} between two texts")
    return [piece.replace(f"\\{sign}", sign) for piece in pieces]


def prompts_of_kind(kind: str, specs: Any) -> tuple[Prompt, ...]:
    """Return prompts that are not text from one of them or a list: `path:weight:stop`, `seed:weight` or numbers.

    Raises:
        MissingInput: a file of an image or a vector does not exist.
    """
    if isinstance(specs, (str, int, Prompt, np.ndarray)):
        specs = [specs]
    if not isinstance(specs, Iterable):
        raise BadParameter(f"{kind} prompts must be a list, got {specs!r}")
    return tuple(_prompt_of_kind(kind, spec) for spec in specs)


def _prompt_of_kind(kind: str, spec: Any) -> Prompt:
    if isinstance(spec, (Prompt, Mapping)):
        return parse_prompt(spec)
    if kind == "vector" and not isinstance(spec, str):
        try:
            vector = tuple(float(value) for value in spec)
        except (TypeError, ValueError) as error:
            raise BadParameter(f"a vector prompt must be a list of numbers or the path of a file, got {spec!r}"
                               ) from error
        return Prompt("vector", kind=kind, vector=vector)
    text, numbers = _peel_numbers(str(spec).strip(), is_words=False)
    prompt = Prompt(text, *numbers)
    if kind == "noise":
        return dataclasses.replace(prompt, kind=kind)
    path = Path(prompt.text).expanduser()
    if not path.is_file():
        raise MissingInput(f"no file {prompt.text} for an {kind} prompt; correct the path")
    if kind == "image":
        return dataclasses.replace(prompt, kind=kind)
    numbers = np.load(path, allow_pickle=False).astype(float).ravel()
    return dataclasses.replace(prompt, kind=kind, vector=tuple(numbers.tolist()))


def region_prompts(regions: Mapping | Sequence) -> tuple[Prompt, ...]:
    """Return prompts for parts of the picture, from {prompt: box}, from pairs, or from prompts with a region."""
    pairs = regions.items() if isinstance(regions, Mapping) else regions
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise BadParameter(f"regions must be {REGIONS}, got {regions!r}")
    prompts = []
    for pair in pairs:
        if isinstance(pair, (Prompt, Mapping)):
            prompts.append(parse_prompt(pair))
            continue
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadParameter(f"regions must be {REGIONS}, got {pair!r} among them")
        prompt, box = pair
        prompts.append(dataclasses.replace(parse_prompt(prompt), region=box))
    return tuple(prompts)


def main_text(prompts: Sequence[Prompt], progress: float = 0.0) -> str:
    """Return the texts that pull at a moment of the run, strongest first, as one phrase: what a prior is asked for.

    A prompt for a region counts only where no other does.
    """
    def pull(prompt: Prompt) -> float:
        return prompt.weight * prompt.strength(progress)

    texts = [prompt for prompt in prompts if prompt.kind == "text" and pull(prompt) > 0]
    of_whole_picture = [prompt for prompt in texts if prompt.region is None]
    chosen = sorted(of_whole_picture or texts, key=pull, reverse=True)
    return ", ".join(prompt.text for prompt in chosen)
