"""Prompts: texts, pictures, noise or vectors with a weight, a stop, a region of the picture and a span of the run."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import BadParameter, unknown_name
from ..media import Box, check_box

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
CLOCK_TIME = re.compile(r"(^|\D)([01]?\d|2[0-3]):[0-5]\d$")
NO_STOP = -math.inf
KINDS = ("text", "image", "noise", "vector")


@dataclass(frozen=True)
class Prompt:
    """One wish with its pull on the picture.

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
        if not math.isfinite(self.weight):
            raise BadParameter(f"weight of prompt {self.text!r} must be finite, got {self.weight}")
        if math.isnan(self.stop) or self.stop == math.inf:
            raise BadParameter(f"stop of prompt {self.text!r} must be a number or -inf, got {self.stop}")
        if self.kind not in KINDS:
            raise unknown_name("kind of prompt", str(self.kind), KINDS)
        if (self.vector is not None) != (self.kind == "vector"):
            raise BadParameter(f"prompt {self.text!r}: kind 'vector' goes with vector=(...), and only that")
        for name in ("region", "span", "vector"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(float(v) for v in value))
        if self.region is not None:
            check_box(self.region, f"region of prompt {self.text!r}")
        if len(self.span) != 2 or not 0 <= self.span[0] < self.span[1] <= 1 or not 0 <= self.fade <= 1:
            raise BadParameter(f"span of prompt {self.text!r} must be (start, end) with 0 <= start < end <= 1 and fade "
                               f"in [0, 1], got {self.span} and {self.fade}")

    def strength(self, progress: float) -> float:
        """Return which part of the weight pulls at a moment of the run, both in [0, 1].

        At an inner end of the span it rises or falls linearly over `fade`, centred there, so that neighbours in a
        story add up to 1.
        """
        def risen(moment: float) -> float:
            if self.fade == 0:
                return float(progress >= moment)
            return min(max((progress - moment) / self.fade + 0.5, 0.0), 1.0)

        start, end = self.span
        return (risen(start) if start > 0 else 1.0) * (1 - risen(end) if end < 1 else 1.0)

    def to_dict(self) -> dict:
        """Return the fields that differ from their defaults, as plain JSON types; `Prompt(**d)` rebuilds the prompt."""
        fields = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, (v, default) in fields.items() if v != default}


def parse_prompt(spec: str | Prompt | Mapping) -> Prompt:
    r"""Read `text`, `text:weight` or `text:weight:stop`; only numbers at the end are peeled off.

    Colons inside the text are safe ("Star Wars: a poster:0.5" has weight 0.5), and so is a time of day at the end
    ("a clock at 12:30"). Where a number after a colon belongs to the text all the same, write the colon as `\:`.

    Raises:
        BadParameter: no text is left, or a number is out of range.
    """
    if isinstance(spec, Prompt):
        return spec
    if isinstance(spec, Mapping):
        if unknown := [k for k in spec if k not in Prompt.__dataclass_fields__]:
            raise unknown_name("field of a prompt", unknown[0], Prompt.__dataclass_fields__)
        return Prompt(**spec)
    if not isinstance(spec, str):
        raise BadParameter(f"a prompt must be text or a Prompt, got {type(spec).__name__}")
    text, numbers = spec.strip(), []
    while len(numbers) < 2 and not CLOCK_TIME.search(text):
        match = re.search(r"(?<!\\):\s*([^:]*)$", text)
        if not match:
            break
        value = match.group(1).strip()
        # "-inf" is a stop, so it can only be the last of two numbers; "nan" and "infinity" are words
        if not (NUMBER.fullmatch(value) or (value == "-inf" and not numbers)):
            break
        numbers.insert(0, float(value))
        text = text[:match.start()]
    if numbers == [NO_STOP]:
        raise BadParameter(f"prompt {spec!r}: -inf is a stop and follows a weight, as in 'text:1:-inf'")
    return Prompt(text.replace(r"\:", ":").strip(), *numbers)


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
    prompts = []
    for part in spec if isinstance(spec, (list, tuple)) else [spec]:
        if not isinstance(part, str):
            prompts.append(parse_prompt(part))
            continue
        scenes = _split(part, "^")
        for k, scene in enumerate(scenes):
            span, fade = (k / len(scenes), (k + 1) / len(scenes)), cross_fade / len(scenes)
            timed = {"span": span, "fade": fade} if len(scenes) > 1 else {}
            prompts += [dataclasses.replace(parse_prompt(p), **timed) for p in _split(scene, "|")]
    if not any(p.weight for p in prompts):
        raise BadParameter(f"no prompt pulls: got {spec!r}; give at least one a weight other than 0")
    return prompts


def _split(text: str, sign: str) -> list[str]:
    pieces = re.split(rf"(?<!\\){re.escape(sign)}", text)
    if len(pieces) > 1 and not all(p.strip() for p in pieces):
        raise BadParameter(f"prompt {text!r} has an empty part; write one {sign!r} between two texts")
    return [p.replace(f"\\{sign}", sign) for p in pieces]


def main_text(prompts: Sequence[Prompt], progress: float = 0.0) -> str:
    """Return the texts that pull at a moment of the run, strongest first, as one phrase: what a prior is asked for.

    A prompt for a region counts only where no other does.
    """
    wanted = [p for p in prompts if p.kind == "text" and p.weight * p.strength(progress) > 0]
    wanted = [p for p in wanted if p.region is None] or wanted
    return ", ".join(p.text for p in sorted(wanted, key=lambda p: -p.weight * p.strength(progress)))
