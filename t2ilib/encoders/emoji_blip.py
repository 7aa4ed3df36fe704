"""The embedded BLIP: transformers' own classes in a small size, with a convolutional stem and a cut table of tokens.

As in the original the two halves share what they can: the picture encoder, the token table, and of each text layer
everything but the self-attention, which sees both sides when it matches and only the past when it writes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .image_towers import ResNet
from .minilm import WordPieces, minilm_folder
from ..checkpoint import configurable
from ..errors import BadParameter

PAD = 0
UNKNOWN = 1
BEGIN_TEXT = 2  # [CLS]: its state stands for the whole text
END = 3  # [SEP]
BEGIN_CAPTION = 4  # [DEC], which MiniLM's vocabulary does not have
SPECIAL = (0, 100, 101, 102)  # MiniLM's ids of the first four
PROMPT = "a picture of"  # that captions begin with, as in the original; it is not learnt
STRIDE = 8  # of the stem: a token of the picture stands for 8 x 8 pixels
MAX_LOG_SCALE = 4.6  # the contrastive scale stays below 100, as in CLIP
NOT_LEARNT = -100  # label of a token that the loss leaves out
# Named sizes: the one that ships, one for lessons, and a captioner that judges what the first one helped to draw: of
# another width, with a stem of its own that no guide has taught.
SIZES: dict[str, dict[str, Any]] = {
    "shipped": {},
    "small": {"width": 96, "heads": 4, "vision_layers": 1, "text_layers": 2},
    "captioner": {"width": 144, "heads": 4, "vision_layers": 2, "text_layers": 2, "norm": "group"},
}


class Ids(NamedTuple):
    """Texts as ids (B, T) int64, filled up at the end, and a mask (B, T) bool, True at real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> "Ids":
        """Return them on a device."""
        return Ids(self.ids.to(device), self.mask.to(device))


class BlipPieces:
    """MiniLM's tokenizer with its table cut to some tokens; others are unknown.

    Args:
        tokens: MiniLM's ids of the rows from 5 on. pieces: cuts texts into MiniLM's tokens; None loads it.

    Attributes:
        padding: the id that fills short rows up.
    """

    padding = PAD

    def __init__(self, tokens: Sequence[int], pieces: WordPieces | None = None):
        self._pieces = pieces or WordPieces(minilm_folder(check=False))
        self._minilm_id_of = [*SPECIAL, SPECIAL[UNKNOWN], *tokens]
        self._row_of = {token: row for row, token in enumerate(tokens, start=BEGIN_CAPTION + 1)}
        self._row_of |= {token: row for row, token in enumerate(SPECIAL)}

    def __call__(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text between [CLS] and [SEP]; with `max_length`, the end of longer texts is cut."""
        rows = []
        for row in self._pieces(texts, max_length):
            rows.append([self._row_of.get(token, UNKNOWN) for token in row])
        return rows

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text as words, special ones included."""
        return self._pieces.pieces(text)

    def decode(self, row: Sequence[int]) -> str:
        """Return the words of ids, special ones left out."""
        return self._pieces.decode([self._minilm_id_of[token] for token in row])


def tokens_of(texts: Sequence[str], pieces: WordPieces | None = None) -> list[int]:
    """Return the tokens of MiniLM that these texts need, in order and without special ones: a table for `BlipPieces`.

    The prompt of captions is among them.
    """
    pieces = pieces or WordPieces(minilm_folder(check=False))
    found: set[int] = set()
    for row in pieces([PROMPT, *texts]):
        found.update(row)
    return sorted(found - set(SPECIAL))


def pad_rows(rows: Sequence[Sequence[int]]) -> Ids:
    """Return rows of ids as one batch."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)  # (B, T)
    return Ids(ids, ids != PAD)


def prompt_rows(rows: Sequence[Sequence[int]], prompt: Sequence[int]) -> list[list[int]]:
    """Return captions as the writing half reads them: [DEC], the prompt, the caption, [SEP].

    Args:
        rows, prompt: as a tokenizer returns them, between [CLS] and [SEP].
    """
    start = [BEGIN_CAPTION, *prompt[1:-1]]
    return [[*start, *row[1:]] for row in rows]


class ConvStem(nn.Module):
    """Convolutions in the place of BLIP's patches: normalised pictures (B, 3, S, S) -> (B, width, S / 8, S / 8).

    A transformer that sees a few thousand pictures learns little from patches alone (Xiao et al. 2021,
    arXiv:2106.14881). The convolutions are the first three stages of a guide's picture tower, and can begin with its
    weights.
    """

    def __init__(self, width: int, *, channels: Sequence[int], norm: str):
        super().__init__()
        last = channels[-1]
        self.trunk = ResNet(channels=[*channels, last], layers=[2, 2, 2, 1], stem=2, norm=norm, drop_path=0.0)
        self.trunk.layer4 = nn.Identity()
        self.proj = nn.Conv2d(last, width, 1)

    @property
    def weight(self) -> Tensor:
        """The weight whose type says what the pictures are cast to, as transformers asks for it."""
        return self.proj.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.trunk.feature_maps(x)[3])


class BlipOutputs(NamedTuple):
    """What a step of training compares.

    Attributes:
        images, texts: unit vectors (B, D) for the contrastive loss. text_states: (B, D), of [CLS].
        matches: logits (2B, 2) of the B pairs and then of B pairs that do not belong together.
        caption_logits: (B, T, V). scale: factor on cosines, one over the temperature.
    """

    images: Tensor
    texts: Tensor
    text_states: Tensor
    matches: Tensor
    caption_logits: Tensor
    scale: Tensor


@configurable
class EmojiBlip(nn.Module):
    """Both halves of a small BLIP, with shared weights that are kept once.

    Args:
        vocabulary: rows V of the token table, the five special ones included.
        width: D, of pictures, texts and of the space in which they are compared. heads: of all attention.
        vision_layers, text_layers: transformer layers.
        image_size: side of the pictures. channels: of the three stages of the stem. norm: "batch" or "group".
        positions: most tokens of a text. dropout: in the text layers. init_temperature: of the contrastive loss.

    Shapes:
        image_states: normalised pictures (B, 3, S, S) -> (B, 1 + (S / 8)^2, D)
        text_states: ids (B, T) -> (B, T, D), alone or with pictures

    Attributes:
        retrieval: transformers' `BlipForImageTextRetrieval`. captioning: its `BlipForConditionalGeneration`.
        tokens: (V - 5,) int64, MiniLM's ids of the rows of the table.

    References:
        Li et al. 2022, arXiv:2201.12086.
    """

    def __init__(self, *, vocabulary: int, width: int = 192, heads: int = 4, vision_layers: int = 3,
                 text_layers: int = 3, image_size: int = 64, channels: Sequence[int] = (32, 64, 128),
                 norm: str = "batch", positions: int = 64, dropout: float = 0.1, init_temperature: float = 0.07):
        super().__init__()
        if width % heads or image_size % STRIDE or vocabulary <= BEGIN_CAPTION + 1:
            raise BadParameter(f"width {width}, heads {heads}, image_size {image_size}, vocabulary {vocabulary}: "
                               f"expected width in whole heads, a size in steps of {STRIDE}, and more than 5 tokens")
        config = _blip_config(vocabulary=vocabulary, width=width, heads=heads, vision_layers=vision_layers,
                              text_layers=text_layers, image_size=image_size, positions=positions, dropout=dropout)
        from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

        self.retrieval = BlipForImageTextRetrieval(config)
        self.retrieval.vision_model.embeddings.patch_embedding = ConvStem(width, channels=channels, norm=norm)
        captioning = BlipForConditionalGeneration(config)
        _share(self.retrieval, captioning)
        self._captioning = [captioning]  # in a list it is no submodule: what it does not share is registered below
        decoder = captioning.text_decoder
        self.decoder_attention = nn.ModuleList([layer.attention for layer in decoder.bert.encoder.layer])
        self.decoder_transform = decoder.cls.predictions.transform
        self.decoder_bias = decoder.cls.predictions.bias
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(init_temperature)))
        self.register_buffer("tokens", torch.zeros(vocabulary - BEGIN_CAPTION - 1, dtype=torch.long))
        self.image_size = image_size

    @property
    def captioning(self) -> nn.Module:
        """The half that writes captions."""
        return self._captioning[0]

    @property
    def stem(self) -> ConvStem:
        """The convolutions before the picture's transformer."""
        return self.retrieval.vision_model.embeddings.patch_embedding

    def train(self, mode: bool = True) -> Self:
        """Switch between training and use; batch norm keeps its statistics, so that an average of weights fits them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def image_states(self, x: Tensor) -> Tensor:
        """Return what the picture encoder makes of normalised pictures, the state of the whole picture first."""
        return self.retrieval.vision_model(pixel_values=x).last_hidden_state

    def text_states(self, text: Ids, image_states: Tensor | None = None) -> Tensor:
        """Return what the text encoder makes of texts, with `image_states` (B, N, D) together with pictures."""
        return self.retrieval.text_encoder(input_ids=text.ids, attention_mask=text.mask.long(),
                                           encoder_hidden_states=image_states).last_hidden_state

    def caption_logits(self, captions: Ids, image_states: Tensor) -> Tensor:
        """Return the logits (B, T, V) of the token after each token of captions that begin with [DEC]."""
        return self.captioning.text_decoder(input_ids=captions.ids, attention_mask=captions.mask.long(),
                                            encoder_hidden_states=image_states).logits

    def image_vectors(self, image_states: Tensor) -> Tensor:
        """Return unit vectors (B, D) of pictures for comparison with texts."""
        return F.normalize(self.retrieval.vision_proj(image_states[:, 0]), dim=-1)

    def text_vectors(self, text_states: Tensor) -> Tensor:
        """Return unit vectors (B, D) of texts, read alone."""
        return F.normalize(self.retrieval.text_proj(text_states[:, 0]), dim=-1)

    def match_logits(self, fused_states: Tensor) -> Tensor:
        """Return logits (B, 2), "does not belong" and "belongs", from states of texts read together with pictures."""
        return self.retrieval.itm_head(fused_states[:, 0])

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor, partner: Tensor, caption_ids: Tensor,
                caption_mask: Tensor) -> BlipOutputs:
        """Return what one step of training compares.

        Args:
            x: normalised pictures (B, 3, S, S).
            ids, mask: the text of each, and then texts that no picture has.
            partner: (B,), a picture whose text does not belong to this one.
            caption_ids, caption_mask: what the writing half is to say, from [DEC] on.
        """
        n = len(x)
        images = self.image_states(x)
        alone = self.text_states(Ids(ids, mask))
        asked = torch.cat([torch.arange(n, device=ids.device), partner])  # (2B,), first what belongs to the pictures
        fused = self.text_states(Ids(ids[asked], mask[asked]), torch.cat([images, images]))
        logits = self.caption_logits(Ids(caption_ids, caption_mask), images)
        return BlipOutputs(self.image_vectors(images), self.text_vectors(alone), alone[:, 0],
                           self.match_logits(fused), logits, self.logit_scale.clamp(max=MAX_LOG_SCALE).exp())


def _blip_config(*, vocabulary: int, width: int, heads: int, vision_layers: int, text_layers: int, image_size: int,
                 positions: int, dropout: float) -> Any:
    from transformers import BlipConfig

    shared = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads,
              "initializer_range": 0.02}  # BLIP's vision default of 1e-10 makes all pictures alike
    text = {**shared, "vocab_size": vocabulary, "encoder_hidden_size": width, "num_hidden_layers": text_layers,
            "max_position_embeddings": positions, "hidden_dropout_prob": dropout, "bos_token_id": BEGIN_CAPTION,
            "eos_token_id": END, "sep_token_id": END, "pad_token_id": PAD, "is_decoder": True}
    vision = {**shared, "num_hidden_layers": vision_layers, "image_size": image_size, "patch_size": STRIDE}
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=width)


def _share(retrieval: nn.Module, captioning: nn.Module) -> None:
    """Give both halves one picture encoder, one token table, and one of each text layer but for its self-attention.

    Li et al. 2022, section 3.1.
    """
    captioning.vision_model = retrieval.vision_model
    encoder = retrieval.text_encoder
    decoder = captioning.text_decoder
    decoder.bert.embeddings = encoder.embeddings
    for writing, reading in zip(decoder.bert.encoder.layer, encoder.encoder.layer, strict=True):
        writing.crossattention = reading.crossattention
        writing.intermediate = reading.intermediate
        writing.output = reading.output
    predictions = decoder.cls.predictions
    predictions.decoder.weight = encoder.embeddings.word_embeddings.weight
    predictions.decoder.bias = predictions.bias
