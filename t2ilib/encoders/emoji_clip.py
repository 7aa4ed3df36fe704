"""The embedded CLIP: frozen MiniLM for texts and a small convolutional network for pictures, in plain torch.

Only what is learnt is kept in a checkpoint: image tower, text projection and temperature. The 22 million frozen weights
of MiniLM come from their pip package. `open_clip_form` makes a genuine open_clip model of it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .image_towers import ImageTower, tower_spec
from .minilm import WIDTH, WordPieces, load_minilm, minilm_folder
from .text import mean_pool, tokenize
from ..checkpoint import configurable
from ..errors import BadParameter

CONTEXT_LENGTH = 77  # as in CLIP; captions and prompts are far shorter


class EmojiTokenizer:
    """Texts -> token ids (B, T) for the embedded CLIP, padded to the longest text of the call, not to 77.

    Args:
        pieces: cuts texts into MiniLM's tokens; None loads it.

    Attributes:
        padding: the id that fills short rows up.
    """

    def __init__(self, pieces: WordPieces | None = None, *, context_length: int = CONTEXT_LENGTH):
        self.pieces = pieces or WordPieces(minilm_folder(check=False))
        self.padding = self.pieces.padding
        self.context_length = context_length

    def __call__(self, texts: str | list[str], context_length: int | None = None, *, warn: bool = True) -> Tensor:
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids, _ = tokenize(self.pieces, texts, context_length or self.context_length,
                          name="emoji-clip" if warn else None)
        return ids

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has, the two special ones included, before anything is cut."""
        return len(self.pieces.pieces(text))


@configurable
class EmojiClip(nn.Module):
    """The learnt part of the embedded CLIP: image tower, text projection, temperature.

    Args:
        tower: a name in `TOWERS`; `channels`, `layers`, `stem`, `norm` replace its values.
        embed_dim: size E of the shared space.
        image_size: side of the pictures that the image tower reads.
        drop_path: stochastic depth of the image tower while training.
        init_temperature: 1 / exp(logit_scale) at the start, 0.07 in CLIP.
        mean, std: normalisation of [0, 1] pictures before the tower.

    Shapes:
        encode_image: normalised pictures (B, 3, image_size, image_size) -> (B, E), unit norm
        encode_features: MiniLM's pooled features (B, 384) -> (B, E), unit norm

    References:
        Radford et al. 2021, arXiv:2103.00020, figure 3; Zhai et al. 2022, arXiv:2111.07991 (one tower locked).
    """

    def __init__(self, *, tower: str = "resnet", channels: list[int] | None = None, layers: list[int] | None = None,
                 stem: int | None = None, norm: str | None = None, embed_dim: int = 256, image_size: int = 64,
                 drop_path: float = 0.0, init_temperature: float = 0.07, mean: list[float] = (0.5, 0.5, 0.5),
                 std: list[float] = (0.5, 0.5, 0.5)):
        super().__init__()
        if embed_dim < 1 or image_size < 16 or not init_temperature > 0 or not 0 <= drop_path < 1:
            raise BadParameter(f"embed_dim {embed_dim}, image_size {image_size}, init_temperature {init_temperature}, "
                               f"drop_path {drop_path}: expected >= 1, >= 16, > 0 and 0 <= drop_path < 1")
        self.tower_spec = tower_spec(tower, channels=channels, layers=layers, stem=stem, norm=norm)
        self.visual = ImageTower(self.tower_spec, embed_dim, drop_path=drop_path)
        self.text_proj = nn.Linear(WIDTH, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(init_temperature)))
        self.image_size = image_size
        self.image_mean = tuple(mean)
        self.image_std = tuple(std)

    def encode_image(self, x: Tensor) -> Tensor:
        """Return unit vectors of pictures that are already resized and normalised (`normalise`)."""
        return F.normalize(self.visual(x), dim=-1)

    def encode_features(self, features: Tensor) -> Tensor:
        """Return unit vectors of texts from MiniLM's pooled features, the frozen part, worth computing once.

        The projection has no bias and its result is normalised, so that the length of the features does not matter.
        """
        return F.normalize(self.text_proj(features), dim=-1)

    def normalise(self, x: Tensor) -> Tensor:
        """Map [0, 1] pictures to what the image tower reads."""
        shape = (1, 3, 1, 1)
        return (x - x.new_tensor(self.image_mean).view(shape)) / x.new_tensor(self.image_std).view(shape)


class EmojiClipNetwork(nn.Module):
    """An `EmojiClip` with its frozen MiniLM: from normalised pictures and from token ids, as open_clip models map them.

    Args:
        towers: the learnt part; its modules are shared.

    Shapes:
        encode_image: (B, 3, S, S) -> (B, E); encode_text: ids (B, T), filled up with `padding` -> (B, E)

    Attributes:
        tokenizer: texts -> ids (B, T).
    """

    def __init__(self, towers: EmojiClip):
        super().__init__()
        self.config = towers.config
        self.tower_spec = towers.tower_spec
        self.visual = towers.visual
        self.text_proj = towers.text_proj
        self.logit_scale = towers.logit_scale
        self.minilm, pieces = load_minilm()
        self.tokenizer = EmojiTokenizer(pieces)

    def encode_image(self, x: Tensor) -> Tensor:
        """Return features of pictures."""
        return self.visual(x)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return features of texts."""
        mask = ids != self.tokenizer.padding  # (B, T)
        return self.text_proj(mean_pool(self.minilm(ids, mask), mask))
