"""The prompts of the leaderboard: concepts that a judge can rank, and free texts that are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BadParameter
from ..metrics.judging import Judgement

# Of the original reports, word for word.
ORIGINAL = (
    "A painting of an apple in a fruit bowl",
    "birds is flying in the sunny day's sky",
    "Red Mango",
    "drawing of a brown and black Pokemon",
    "a drawing of a green pokemon with red eyes",
    "Ship in a storm",
    "Bouquet of flowers in a vase on a marble table",
)
# One thing, a colour that it seldom has, two things, a number, a place, a scene, a style: forty texts of our own.
FREE = (
    "a heart", "a house with a red roof", "a sailing boat", "an old bicycle", "a cup of coffee", "a smiling sun",
    "a tree in autumn", "a teapot",
    "a blue apple", "a green heart", "a yellow fish", "a purple car", "a red banana", "a pink elephant",
    "an orange moon", "a white rose",
    "a red circle and a blue square", "a cat and a dog", "a knife and a fork", "a green bottle and a red glass",
    "sun and clouds", "a black hat and white gloves",
    "two red apples", "three yellow stars", "four candles", "a pair of blue shoes",
    "a bird above a house", "a ball under a table", "a star inside a circle", "a flag on a mountain",
    "a sunset over the sea", "a road through a forest", "a city at night", "a snowy mountain", "a desert with a cactus",
    "fireworks in the sky",
    "a pencil sketch of a horse", "a watercolour of a lighthouse", "a flat icon of a rocket", "a glossy red button",
)


@dataclass(frozen=True)
class PromptSet:
    """What every method draws.

    Attributes:
        concepts: split -> names of concepts, which the judge ranks among all names.
        free: texts without a row in the data set, which are ranked among one another and looked at.
    """

    concepts: dict[str, list[str]]
    free: list[str]

    @classmethod
    def of(cls, judgement: Judgement, *, splits: Sequence[str], concepts: int, free: int) -> "PromptSet":
        """Return the prompts that a run asks for.

        Args:
            splits: such as ("train", "validation"). concepts: of each split, spread over the alphabet; 0 is all.
            free: how many texts, those of the original reports first, then spread over the others; at most 47.

        Raises:
            BadParameter: no split, or impossible counts.
        """
        if not splits or concepts < 0 or not 0 <= free <= len(ORIGINAL) + len(FREE):
            raise BadParameter(f"need splits, concepts >= 0 and free from 0 to {len(ORIGINAL) + len(FREE)}, got "
                               f"{list(splits)}, {concepts} and {free}")
        names = {split: judgement.concepts(split, concepts) for split in splits}
        texts = list(ORIGINAL[:free])
        rest = free - len(texts)
        texts += [FREE[i * len(FREE) // rest] for i in range(rest)]
        return cls(names, texts)

    @property
    def texts(self) -> list[str]:
        """Return all prompts, those of concepts first, each once."""
        every: dict[str, None] = {}
        for names in self.concepts.values():
            every.update(dict.fromkeys(names))
        every.update(dict.fromkeys(self.free))
        return list(every)
