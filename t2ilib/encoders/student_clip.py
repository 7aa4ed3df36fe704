"""A CLIP that has learnt from another one: both towers are small, and nothing else is needed to load it.

The embedded guides read texts through MiniLM, 22 million parameters from a pip package. A `StudentClip` brings its own
text tower and its own table of word pieces.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cut_pieces import SPECIAL, CutPieces
from .emoji_clip import EmojiTokenizer
from .student_towers import SIDE, fold_batch_norm, image_tower, text_tower
from ..checkpoint import configurable
from ..errors import BadParameter


@configurable
class StudentClip(nn.Module):
    """Both towers of a student, and its table of word pieces.

    Args:
        image: name of the picture tower, in `IMAGE_TOWERS`. text: of the text tower, in `TEXT_TOWERS`.
        embed_dim: D, that of the teacher.
        pieces, piece_bytes: size of the table, and of its bytes; `with_pieces` sets both.
        image_size: side of the pictures that the picture tower reads.
        teacher: name of the CLIP that it learnt from. logit_scale: of the teacher.
        mean, std: normalisation of [0, 1] pictures before the tower.

    Shapes:
        encode_image: normalised pictures (B, 3, 64, 64) -> (B, D), unit norm
        encode_ids: token ids (B, T), filled up with 0 -> (B, D), unit norm
    """

    def __init__(self, *, image: str = "separable", text: str = "transformer", embed_dim: int = 256,
                 pieces: int = len(SPECIAL), piece_bytes: int = len("\n".join(SPECIAL)), image_size: int = SIDE,
                 teacher: str = "", logit_scale: float = 1 / 0.07, mean: list[float] = (0.5, 0.5, 0.5),
                 std: list[float] = (0.5, 0.5, 0.5)):
        super().__init__()
        if embed_dim < 1 or image_size != SIDE or pieces < len(SPECIAL) or piece_bytes < 1 or not logit_scale > 0:
            raise BadParameter(f"embed_dim {embed_dim}, image_size {image_size}, pieces {pieces}, piece_bytes "
                               f"{piece_bytes}, logit_scale {logit_scale}: expected >= 1, {SIDE}, >= {len(SPECIAL)}, "
                               ">= 1 and > 0")
        self.visual = image_tower(image, embed_dim)
        self.text = text_tower(text, embed_dim, pieces=pieces)
        self.register_buffer("piece_table", torch.zeros(piece_bytes, dtype=torch.uint8))
        self.register_buffer("logit_scale", torch.tensor(math.log(logit_scale)))
        self.image_size = image_size
        self.image_mean = tuple(mean)
        self.image_std = tuple(std)

    @classmethod
    def with_pieces(cls, table: CutPieces, **arguments) -> "StudentClip":
        """Make a student with this table of word pieces; `arguments` are those of the class."""
        data = table.to_bytes()
        student = cls(pieces=len(table), piece_bytes=len(data), **arguments)
        student.piece_table.copy_(data)
        return student

    def tokenizer(self) -> EmojiTokenizer:
        """Return what cuts texts into the ids that the text tower reads."""
        return EmojiTokenizer(CutPieces.from_bytes(self.piece_table))

    def encode_image(self, x: Tensor) -> Tensor:
        """Return unit vectors of pictures that are already resized and normalised (`normalise`)."""
        return F.normalize(self.visual(x).float(), dim=-1)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Return unit vectors of texts."""
        return F.normalize(self.text(ids, ids != 0).float(), dim=-1)

    def normalise(self, x: Tensor) -> Tensor:
        """Map [0, 1] pictures to what the picture tower reads."""
        shape = (1, 3, 1, 1)
        return (x - x.new_tensor(self.image_mean).view(shape)) / x.new_tensor(self.image_std).view(shape)


class StudentNetwork(nn.Module):
    """A `StudentClip` as `Clip` takes it, for use and not for training: batch norm is folded into the convolutions.

    Shapes:
        encode_image: normalised pictures (B, 3, 64, 64) -> (B, D); encode_text: ids (B, T) -> (B, D)
    """

    def __init__(self, student: StudentClip):
        super().__init__()
        self.config = student.config
        self.visual = fold_batch_norm(student.visual)
        self.text = student.text
        self.register_buffer("logit_scale", student.logit_scale, persistent=False)
        self.tokenizer = student.tokenizer()

    def encode_image(self, x: Tensor) -> Tensor:
        """Return features of pictures."""
        return self.visual(x)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return features of texts."""
        return self.text(ids, ids != self.tokenizer.padding)
