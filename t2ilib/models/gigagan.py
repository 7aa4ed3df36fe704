"""A small GigaGAN: a generator from words and noise that draws at every size, and a discriminator that reads them all.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", arXiv:2303.05511, section 3 and appendix A.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter
from ..layers.filter_bank import DistanceSelfAttention, FilterBankConv
from ..layers.text_memory import TextMemory, begin_with_components, by_thing
from ..layers.transformer import Transformer
from ..layers.unet_blocks import CrossAttention, DropsText, zero_

SMALLEST = 4  # side of the first map of the generator, and of the last of the discriminator
SLOPE = 0.2  # of every leaky ReLU
GAIN = 2**0.5  # keeps the size of activations behind a leaky ReLU
HALF = 2**-0.5  # keeps it where two branches are added
FIRST_CONTRAST = 0.1  # of what a block adds to the picture, before training
DRAFT_SIDE = 16  # of the small picture that a memory of drawings gives
DRAFT_SHARPNESS = 40.0  # of the lookup before training: a mean of several small drawings shows none of them
STYLE_CONTRAST = 8.0  # of the softmax by which noise chooses among the drawings of a thing: mostly one alone


def sides(image_size: int, widths: Sequence[int]) -> list[int]:
    """Return the sides from 4 up to the pictures', one for each width.

    Raises:
        BadParameter: not one width for each doubling.
    """
    found = [SMALLEST << level for level in range(len(widths))]
    if not widths or found[-1] != image_size:
        raise BadParameter(f"widths need one number for each side from {SMALLEST} to image_size={image_size}, got "
                           f"{list(widths)} for {found}")
    return found


def activated(x: Tensor) -> Tensor:
    """Return a leaky ReLU of x that keeps its mean square."""
    return F.leaky_relu(x, SLOPE) * GAIN


class StyleMapping(nn.Module):
    """From noise and the text as a whole to the style that every layer reads.

    Shapes:
        z: (B, latent_dim), pooled: (B, E) -> (B, dim)
    """

    def __init__(self, *, latent_dim: int, text_dim: int, dim: int, depth: int = 3):
        super().__init__()
        widths = [latent_dim + text_dim, *[dim] * depth]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, z: Tensor, pooled: Tensor) -> Tensor:
        # both of one size, whatever the lengths of the vectors are
        h = torch.cat([_unit(z), _unit(pooled)], dim=1)
        for layer in self.layers:
            h = activated(layer(h))
        return h


def _unit(x: Tensor) -> Tensor:
    """Return vectors whose numbers have a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class ReadText(nn.Module):
    """What places of a map read in the tokens of the text, added to them.

    Shapes:
        x: (B, dim, H, W), tokens: (B, T, text_dim), mask: (B, T) bool -> (B, dim, H, W)
    """

    def __init__(self, *, dim: int, text_dim: int, heads: int):
        super().__init__()
        self.attention = CrossAttention(dim=dim, context_dim=text_dim, heads=heads, dim_head=dim // heads)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        answer = self.attention(places, tokens, mask)
        return x + answer.transpose(1, 2).unflatten(2, x.shape[-2:])


class GeneratorBlock(nn.Module):
    """Two convolutions with kernels of each picture's own, attention where there is one, and the picture so far.

    Shapes:
        x: (B, in_channels, H, W), style: (B, S), tokens: (B, T, E), mask: (B, T)
        -> (B, out_channels, H', W'), a picture (B, 3, H', W') to be added; H' = 2 H with `up`
    """

    def __init__(self, *, in_channels: int, out_channels: int, style_dim: int, filters: int, up: bool, attention: bool,
                 text_dim: int, heads: int):
        super().__init__()
        self.up = up
        bank = dict(style_dim=style_dim, filters=filters)
        self.conv1 = FilterBankConv(in_channels=in_channels, out_channels=out_channels, **bank)
        self.conv2 = FilterBankConv(in_channels=out_channels, out_channels=out_channels, **bank)
        self.self_attention = DistanceSelfAttention(dim=out_channels, heads=heads) if attention else None
        self.read_text = ReadText(dim=out_channels, text_dim=text_dim, heads=heads) if attention else None
        self.to_rgb = FilterBankConv(in_channels=out_channels, out_channels=3, style_dim=style_dim, kernel=1, filters=1,
                                     demodulate=False)
        with torch.no_grad():
            self.to_rgb.bank.mul_(FIRST_CONTRAST)  # the pictures of all sides add up, and 1 is white already

    def forward(self, x: Tensor, style: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = activated(self.conv1(x, style))
        x = activated(self.conv2(x, style))
        if self.self_attention is not None:
            x = self.self_attention(x)
            x = self.read_text(x, tokens, mask)
        return x, self.to_rgb(x, style)


def noise_of_styles(z: Tensor, styles: Tensor, count: int) -> Tensor:
    """Return noise with which a memory gives each picture's own style: its number takes the place of the largest.

    Where styles are chosen evenly, what is returned has the distribution of the noise.

    Args:
        count: of styles.

    Shapes:
        z: (B, latent_dim), styles: (B,) int64 -> (B, latent_dim)
    """
    rows = torch.arange(len(z), device=z.device)
    largest = z[:, :count].argmax(dim=1)
    swapped = z.clone()
    swapped[rows, styles] = z[rows, largest]
    swapped[rows, largest] = z[rows, styles]
    return swapped


class DraftMemory(nn.Module):
    """Small drawings that a text looks up, of which noise chooses one style.

    GANs have been given retrieved pictures before (Tseng et al. 2020, "RetrieveGAN", arXiv:2007.08513); here
    what is retrieved is a table of the network, see `TextMemory`.

    Args:
        rows: things. styles: drawings of each. text_dim: E. key_dim: of what is compared. dim: numbers of a drawing.

    Shapes:
        z: (B, latent_dim), pooled: (B, E), centred -> (B, 3, 16, 16), about in [-1, 1]
    """

    def __init__(self, *, rows: int, styles: int, text_dim: int, key_dim: int, dim: int):
        super().__init__()
        self.styles = styles
        self.memory = TextMemory(rows=rows, styles=styles, text_dim=text_dim, key_dim=key_dim, dim=dim)
        self.to_picture = nn.Linear(dim, 3 * DRAFT_SIDE**2)

    def forward(self, z: Tensor, pooled: Tensor) -> Tensor:
        style = (STYLE_CONTRAST * z[:, :self.styles]).softmax(dim=1)  # (B, S)
        return self.to_picture(self.memory(pooled, style)).unflatten(1, (3, DRAFT_SIDE, DRAFT_SIDE))

    @torch.no_grad()
    def begin_with(self, texts: Tensor, pictures: Tensor, things: Tensor, styles: Tensor) -> None:
        """Store drawings as their principal components.

        Args:
            texts: (M, E) of the things, centred. pictures: (N, 3, 16, 16) in [-1, 1]. things: (N,), the thing that each
                shows. styles: (N,), its style.
        """
        components = begin_with_components(self.to_picture, pictures.flatten(1))
        self.memory.log_sharpness.fill_(math.log(DRAFT_SHARPNESS))
        self.memory.begin_with(texts, by_thing(components, things, styles, len(texts), self.styles))


@configurable
class GigaGenerator(DropsText, nn.Module):
    """Draw a picture from noise and a text, at every side from 4 pixels up.

    Args:
        image_size: of the largest picture. widths: channels at each side from 4 up to it.
        attention: sides with attention among places and to the text. heads: of it.
        filters: of each bank; 1 is StyleGAN2's modulated convolution.
        latent_dim: length of z. style_dim: of the style. text_dim: of the text encoder's tokens and pooled feature.
        text_depth: blocks of the transformer that adapts the frozen encoder's tokens; 0 is none.
        conditional: False reads no text.
        memory: things of a `DraftMemory`, whose small picture is where a picture begins at 16 pixels; 0 is none.
            memory_styles: drawings of each. draft_dim: numbers of a drawing, and of what is compared.

    Attributes:
        mean_pooled: (E,), the mean pooled feature of all texts, which the training sets and the checkpoint keeps.

    Shapes:
        z: (B, latent_dim), tokens: (B, T, E), mask: (B, T) bool, pooled: (B, E); largest: a side of `sides` at which to
        stop, None draws all -> pictures (B, 3, side, side), about in [-1, 1], from the largest side to the smallest

    Raises:
        BadParameter: widths that do not fit, a side that is not drawn, or a memory that nothing would look up.

    Example:
        pictures = generator(z, *text_encoder.encode(texts))
        largest = pictures[0].clamp(-1, 1)
    """

    def __init__(self, *, image_size: int = 64, widths: Sequence[int] = (128, 128, 128, 96, 64),
                 attention: Sequence[int] = (8, 16), heads: int = 4, filters: int = 4, latent_dim: int = 64,
                 style_dim: int = 192, text_dim: int = 384, text_depth: int = 1, conditional: bool = True,
                 memory: int = 0, memory_styles: int = 4, draft_dim: int = 96):
        super().__init__()
        self.sides = sides(image_size, widths)
        self.latent_dim = latent_dim
        self.conditional = conditional
        self.null_token = nn.Parameter(torch.zeros(text_dim))
        self.null_pooled = nn.Parameter(torch.randn(text_dim) * 0.02)
        self.register_buffer("mean_pooled", torch.zeros(text_dim))
        self.text = None
        if text_depth:
            self.text = Transformer(dim=text_dim, depth=text_depth, heads=heads, ff_mult=1.0)
        self.drafts = self.from_draft = None
        if memory and (not conditional or DRAFT_SIDE not in self.sides):
            raise BadParameter(f"a memory is looked up by a text, for pictures of at least {DRAFT_SIDE} pixels; got "
                               f"conditional={conditional} and image_size={image_size}")
        if memory and memory_styles > latent_dim:
            raise BadParameter(f"noise of {latent_dim} numbers cannot choose among {memory_styles} drawings of a thing")
        if memory:
            self.drafts = DraftMemory(rows=memory, styles=memory_styles, text_dim=text_dim, key_dim=draft_dim,
                                      dim=draft_dim)
            self.from_draft = zero_(nn.Conv2d(3, widths[self.sides.index(DRAFT_SIDE)], 1))
        self.mapping = StyleMapping(latent_dim=latent_dim, text_dim=text_dim, dim=style_dim)
        self.first = nn.Parameter(torch.randn(1, widths[0], SMALLEST, SMALLEST))
        self.blocks = nn.ModuleList()
        before = widths[0]
        for side, after in zip(self.sides, widths, strict=True):
            attends = side in attention
            self.blocks.append(GeneratorBlock(in_channels=before, out_channels=after, style_dim=style_dim,
                                              filters=filters, up=side > SMALLEST, attention=attends,
                                              text_dim=text_dim, heads=heads))
            before = after

    def forward(self, z: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor,
                largest: int | None = None) -> list[Tensor]:
        return self.draw(self.style(z, pooled), *self.read(tokens, mask), largest=largest, draft=self.draft(z, pooled))

    def draft(self, z: Tensor, pooled: Tensor) -> Tensor | None:
        """Return the small pictures (B, 3, 16, 16) that noise and text look up; None without a memory."""
        return None if self.drafts is None else self.drafts(z, pooled.float() - self.mean_pooled)

    def style(self, z: Tensor, pooled: Tensor) -> Tensor:
        """Return the style of noise and text: (B, latent_dim), (B, E) -> (B, style_dim)."""
        if not self.conditional:
            pooled = self.without_pooled(pooled, _all_rows(pooled))
        return self.mapping(z, pooled)

    def read(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens as the maps read them, and which of them count: (B, T, E), (B, T)."""
        if not self.conditional:
            tokens, mask = self.without_tokens(tokens, mask, _all_rows(tokens))
        if self.text is not None:
            tokens = self.text(tokens, key_keep=mask)
        return tokens, mask

    def draw(self, styles: Tensor | Sequence[Tensor], tokens: Tensor, mask: Tensor,
             largest: int | None = None, draft: Tensor | None = None) -> list[Tensor]:
        """Return the pictures of styles: one for all sides (B, S), or a list with one for each side, which mixes them.

        Args:
            draft: see `draft`; of a network with a memory.
            largest: the side at which to stop: the blocks above it are not run. None runs all.

        Raises:
            BadParameter: not one style for each side, a side that is not drawn, or no draft where there is a memory.
        """
        if (draft is None) != (self.drafts is None):
            raise BadParameter("a network with a memory needs draft=network.draft(z, pooled), and no other takes one")
        if largest not in (None, *self.sides):
            raise BadParameter(f"this generator draws pictures of {self.sides} pixels, got {largest}")
        each = [styles] * len(self.blocks) if isinstance(styles, Tensor) else list(styles)
        if len(each) != len(self.blocks):
            raise BadParameter(f"mixing needs a style for each side of {self.sides}, got {len(each)}")
        x = self.first.expand(len(tokens), -1, -1, -1)
        picture = None
        pictures = []
        for block, style, side in zip(self.blocks, each, self.sides, strict=True):
            x, added = block(x, style, tokens, mask)
            if picture is None:
                picture = added
            else:
                picture = added + F.interpolate(picture, scale_factor=2.0, mode="bilinear")
            if self.drafts is not None and side == DRAFT_SIDE:
                picture = picture + draft
                x = x + self.from_draft(draft)
            pictures.append(picture)
            if side == largest:
                break
        return pictures[::-1]


def _all_rows(x: Tensor) -> Tensor:
    """Return True for each row of a batch: (B, ...) -> (B,)."""
    return torch.ones(len(x), dtype=torch.bool, device=x.device)


class DiscriminatorBlock(nn.Module):
    """Two convolutions around a shortcut, attention where there is one, and half the side.

    Shapes:
        x: (B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2)
    """

    def __init__(self, *, in_channels: int, out_channels: int, attention: bool, heads: int):
        super().__init__()
        self.attention = DistanceSelfAttention(dim=in_channels, heads=heads) if attention else None
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            x = self.attention(x)
        h = activated(self.conv1(x))
        h = F.avg_pool2d(activated(self.conv2(h)), 2)
        return HALF * (h + self.shortcut(F.avg_pool2d(x, 2)))


class TextHead(nn.Module):
    """One number for each map of features: how real it looks, and how well it shows its text.

    The score is that of the features alone plus their product with the text's (Miyato & Koyama 2018, eq. 3).

    Shapes:
        x: (B, channels, h, w), texts: pooled features (B, E), or None for none -> (B,) for each text
    """

    def __init__(self, *, channels: int, text_dim: int, hidden: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 1)
        self.alone = nn.Linear(hidden, 1)
        self.text = nn.Linear(text_dim, hidden)

    def forward(self, x: Tensor, texts: Sequence[Tensor | None]) -> list[Tensor]:
        features = activated(self.conv(x)).mean(dim=(2, 3))  # (B, hidden)
        alone = self.alone(features)[:, 0]
        scores = []
        for pooled in texts:
            score = alone
            if pooled is not None:
                score = score + (features * self.text(_unit(pooled))).sum(1) * features.shape[1] ** -0.5
            scores.append(score)
        return scores


@configurable
class GigaDiscriminator(nn.Module):
    """Score pictures and their text from several sides, after each of several halvings.

    A picture that enters at some side runs down all sides below. A side that joins adds its pictures to the batch, so
    that at the k-th side k streams run: the work grows with the number of sides, and as lower sides cost a quarter
    each, little is added to the first stream.

    Args:
        image_size, widths: as of the generator. reads: sides at which pictures enter, from `image_size` down.
        scores: sides after whose halving there is a score. attention: sides with attention. heads: of it.
        text_dim: of the pooled feature. hidden: width of the heads. conditional: False reads no text.

    Shapes:
        pictures: from the largest side to the smallest, those of `reads`, (B, 3, side, side) each; or without the
        largest ones, as while a GAN grows; pooled: (B, E)
        -> (P, B), a row for each pair of a side that was read and a later side that was scored

    Raises:
        BadParameter: sides that do not fit, or pictures of other sides.
    """

    def __init__(self, *, image_size: int = 64, widths: Sequence[int] = (128, 128, 96, 64, 32),
                 reads: Sequence[int] = (64, 32, 16), scores: Sequence[int] = (4, 8), attention: Sequence[int] = (16,),
                 heads: int = 4, text_dim: int = 384, hidden: int = 128, conditional: bool = True):
        super().__init__()
        found = sides(image_size, widths)[::-1]  # from the largest down
        self.sides = found[:-1]  # those that a block halves
        self.reads = sorted(reads, reverse=True)
        self.scored = sorted(scores)
        self.conditional = conditional
        halved = [side // 2 for side in self.sides]
        if self.reads[:1] != [image_size] or not set(self.reads) <= set(self.sides):
            raise BadParameter(f"reads must begin with image_size={image_size} and be among {self.sides}, got "
                               f"{list(reads)}")
        if not self.scored or not set(self.scored) <= set(halved):
            raise BadParameter(f"scores must be among {halved}, got {list(scores)}")
        self.from_rgb = nn.ModuleDict()
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleDict()
        for side, (before, after) in zip(self.sides, pairwise(list(widths)[::-1]), strict=True):
            if side in self.reads:
                self.from_rgb[str(side)] = nn.Conv2d(3, before, 1)
            self.blocks.append(DiscriminatorBlock(in_channels=before, out_channels=after, attention=side in attention,
                                                  heads=heads))
            if side // 2 in self.scored:
                self.heads[str(side // 2)] = TextHead(channels=after, text_dim=text_dim, hidden=hidden)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Return pictures (B, 3, side, side) of one of `reads` at it and at every smaller side that is read."""
        smaller = [side for side in self.reads if side <= x.shape[-1]]
        return [x if side == x.shape[-1] else F.adaptive_avg_pool2d(x, side) for side in smaller]

    def forward(self, pictures: Sequence[Tensor], pooled: Tensor) -> Tensor:
        scores, = self.scores(pictures, [pooled])
        return scores

    def scores(self, pictures: Sequence[Tensor], texts: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores (P, B) of pictures with each of several texts (B, E); the pictures are looked at once."""
        by_side = {picture.shape[-1]: picture for picture in pictures}
        largest = max(by_side, default=0)
        reads = [side for side in self.reads if side <= largest]
        if largest not in reads or not by_side.keys() >= set(reads):
            raise BadParameter(f"this discriminator reads pictures of {self.reads} pixels, or of all but the largest "
                               f"of them, got {sorted(by_side)}")
        h = None
        streams = 0
        scores = []
        for side, block in zip(self.sides, self.blocks, strict=True):
            if side > largest:
                continue
            if side in reads:
                entering = activated(self.from_rgb[str(side)](by_side[side]))
                h = entering if h is None else torch.cat([h, entering])  # (streams * B, C, side, side)
                streams += 1
            h = block(h)
            if side // 2 in self.scored:
                repeated = [pooled.repeat(streams, 1) if self.conditional else None for pooled in texts]
                found = self.heads[str(side // 2)](h, repeated)
                scores.append([score.unflatten(0, (streams, -1)) for score in found])  # (streams, B) each
        return [torch.cat(of_text) for of_text in zip(*scores, strict=True)]


class FeatureDiscriminator(nn.Module):
    """Score pictures by what a frozen network sees in them, layer by layer (Kumari et al. 2022; Sauer et al. 2021).

    Args:
        network: (B, 3, H, W) in [0, 1] -> name of a layer -> (B, C, h, w), frozen; not a part of the weights.
        layers: name of a layer -> its channels. size: pixels at which pictures are looked at.
        text_dim, hidden, conditional: as of `GigaDiscriminator`.

    Shapes:
        pictures: (B, 3, H, W) in [-1, 1], pooled: (B, E) -> (layers, B)
    """

    def __init__(self, network: nn.Module, layers: dict[str, int], *, size: int = 64, text_dim: int = 384,
                 hidden: int = 128, conditional: bool = True):
        super().__init__()
        self.layers = dict(layers)
        self.size = size
        self.conditional = conditional
        self.convs = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for name, channels in layers.items():
            self.convs[name] = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.LeakyReLU(SLOPE),
                                             nn.Conv2d(hidden, hidden, 3, padding=1), nn.LeakyReLU(SLOPE))
            self.heads[name] = TextHead(channels=hidden, text_dim=text_dim, hidden=hidden)
        self._network = [network]  # in a list, so that it is neither saved nor trained

    def forward(self, pictures: Tensor, pooled: Tensor) -> Tensor:
        scores, = self.scores(pictures, [pooled])
        return scores

    def scores(self, pictures: Tensor, texts: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores (layers, B) of pictures with each of several texts (B, E)."""
        x = (pictures + 1) / 2
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True)
        maps = self._network[0](x, list(self.layers))
        read = texts if self.conditional else [None] * len(texts)
        scores = []
        for name in self.layers:
            h = self.convs[name](maps[name])
            scores.append(self.heads[name](h, read))
        return [torch.stack(of_text) for of_text in zip(*scores, strict=True)]
