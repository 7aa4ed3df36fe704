"""BLIP behind one interface: compare pictures with texts, say whether they match, and write captions.

    blip = load_blip("emoji-blip")                                  # or "Salesforce/blip-itm-base-coco", or a folder
    blip.match(pictures, ["a red heart"])                           # (B,) in [0, 1]
    blip.caption(pictures)                                          # list of B strings
    load_text_encoder("emoji-blip").encode(["a red heart"])         # the text alone, as a condition

The hub's BLIPs come in halves: some match, others write. The embedded one does both.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .emoji_blip import PROMPT, BlipPieces, EmojiBlip, Ids
from .hugging_face import LONGEST, HuggingFaceTokenizer, folder_stamp, quiet_transformers
from .text import TextEncoder, TextFeatures, check_texts, tokenize
from ..assets import hub_or_cache
from ..checkpoint import absent_checkpoint, load_model, read_config
from ..errors import BadParameter, CheckpointMismatch, MissingAsset
from ..paths import checkpoints_dir

EMBEDDED = "emoji-blip"
RECIPE = "python -m t2ilib train blip"
HUB_PREFIX = "Salesforce/blip-"
RETRIEVAL = "BlipForImageTextRetrieval"
CAPTIONING = "BlipForConditionalGeneration"
MEAN = (0.5, 0.5, 0.5)  # of the embedded one's pictures
MOST_TOKENS = 30  # of a caption


class Blip(nn.Module):
    """A BLIP, or one of its halves, frozen, with its own preprocessing.

    Pictures are floats (B, 3, H, W) in [0, 1] of any size; they are squashed to a square, as BLIP's training did.

    Args:
        network: what owns the weights. retrieval, captioning: transformers' `BlipForImageTextRetrieval` and
            `BlipForConditionalGeneration`, None for a half that is absent.
        tokenizer: with `decode`. name, fingerprint: see `TextEncoder`.

    Attributes:
        image_size: side of the pictures that it reads. dim: D, width of the states of texts.
    """

    def __init__(self, network: nn.Module, *, retrieval: nn.Module | None, captioning: nn.Module | None,
                 tokenizer: Any, name: str, image_size: int, mean: Sequence[float], std: Sequence[float],
                 fingerprint: str = ""):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self._halves = [retrieval, captioning]  # in a list they are no submodules: their weights are the network's
        self.tokenizer = tokenizer
        self.name = name
        self.image_size = image_size
        self.fingerprint = fingerprint or name
        config = (retrieval or captioning).config
        self.dim = config.text_config.hidden_size
        self.max_length = min(config.text_config.max_position_embeddings, LONGEST)
        self.register_buffer("image_mean", torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(list(std)).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.image_mean.device

    @property
    def retrieval(self) -> Any:
        """The half that compares and matches.

        Raises:
            BadParameter: this BLIP does not have it.
        """
        if self._halves[0] is None:
            raise BadParameter(f"{self.name} writes captions and does not match; load one that does, such as "
                               f"{EMBEDDED} or {HUB_PREFIX}itm-base-coco")
        return self._halves[0]

    @property
    def captioning(self) -> Any:
        """The half that writes captions.

        Raises:
            BadParameter: this BLIP does not have it.
        """
        if self._halves[1] is None:
            raise BadParameter(f"{self.name} matches and does not write captions; load one that does, such as "
                               f"{EMBEDDED} or {HUB_PREFIX}image-captioning-base")
        return self._halves[1]

    def preprocess(self, x: Tensor) -> Tensor:
        """Return pictures (B, 3, H, W) in [0, 1] as the picture encoder reads them, (B, 3, S, S).

        Raises:
            BadParameter: another shape, or whole numbers.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise BadParameter(f"pictures: got {tuple(x.shape)} {x.dtype}, expected (B, 3, H, W) floats in [0, 1]")
        x = x.to(self.device)
        size = (self.image_size, self.image_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return (x - self.image_mean) / self.image_std

    def image_states(self, x: Tensor) -> Tensor:
        """Return what the picture encoder makes of pictures: (B, N, D'), the state of the whole picture first."""
        half = self._halves[0] or self._halves[1]
        return half.vision_model(pixel_values=self.preprocess(x)).last_hidden_state

    @torch.no_grad()
    def encode_image(self, x: Tensor, *, batch_size: int = 64) -> Tensor:
        """Return unit vectors (B, E) of pictures, for comparison with those of texts."""
        parts = []
        for part in x.split(batch_size):
            states = self.image_states(part)
            parts.append(F.normalize(self.retrieval.vision_proj(states[:, 0]), dim=-1))
        return torch.cat(parts)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors (B, E) of texts."""
        check_texts(texts)
        text = self._ids(texts)
        states = self.retrieval.text_encoder(input_ids=text.ids, attention_mask=text.mask.long()).last_hidden_state
        return F.normalize(self.retrieval.text_proj(states[:, 0]), dim=-1)

    @torch.no_grad()
    def match(self, x: Tensor, texts: list[str], *, batch_size: int = 64) -> Tensor:
        """Return the probability (B,) that each picture and the text beside it belong together.

        Raises:
            BadParameter: not as many texts as pictures.
        """
        parts = []
        for states, part in self._pairs(x, texts, batch_size):
            fused = self._fused(states, self._ids(part))
            logits = self.retrieval.itm_head(fused[:, 0])  # (b, 2)
            parts.append(logits.float().softmax(-1)[:, 1])
        return torch.cat(parts)

    @torch.no_grad()
    def fused(self, x: Tensor, texts: list[str], *, batch_size: int = 64) -> TextFeatures:
        """Return features of texts read together with pictures: tokens (B, T, D), mask (B, T), pooled (B, D).

        A generator that is given these has seen the picture it is to draw: what comes out is a variation of it.

        Raises:
            BadParameter: not as many texts as pictures.
        """
        text = self._ids(texts)
        parts = []
        start = 0
        for states, part in self._pairs(x, texts, batch_size):
            rows = slice(start, start + len(part))
            parts.append(self._fused(states, Ids(text.ids[rows], text.mask[rows])))
            start += len(part)
        tokens = torch.cat(parts) * text.mask.unsqueeze(-1)  # (B, T, D)
        return TextFeatures(tokens, text.mask, F.normalize(tokens[:, 0], dim=-1))

    @torch.no_grad()
    def caption(self, x: Tensor, *, prompt: str = PROMPT, beams: int = 1, most_tokens: int = MOST_TOKENS,
                batch_size: int = 64) -> list[str]:
        """Write a caption for each picture, the likeliest one that is found.

        Args:
            prompt: what captions begin with; it is left out of the result. beams: of beam search; 1 takes the
                likeliest token each time. most_tokens: of a caption.
        """
        start = torch.tensor(self.tokenizer([prompt]), device=self.device)  # (1, T)
        captions = []
        for part in x.split(batch_size):
            rows = self.captioning.generate(pixel_values=self.preprocess(part), input_ids=start.repeat(len(part), 1),
                                            max_new_tokens=most_tokens, num_beams=beams, do_sample=False)
            for row in rows.tolist():
                captions.append(self.tokenizer.decode(row[1:]).removeprefix(prompt).strip())
        return captions

    def text_encoder(self, *, max_length: int | None = None) -> TextEncoder:
        """Return its text encoder, which reads texts alone; the pooled feature is the state of the first token."""
        reader = _TextReader(self.retrieval.text_encoder)
        return TextEncoder(reader, self.tokenizer, name=self.name, dim=self.dim,
                           max_length=max_length or self.max_length, fingerprint=self.fingerprint, pool=first_state)

    def _ids(self, texts: list[str]) -> Ids:
        ids, mask = tokenize(self.tokenizer, texts, self.max_length, name=self.name)
        return Ids(ids, mask).to(self.device)

    def _fused(self, image_states: Tensor, text: Ids) -> Tensor:
        return self.retrieval.text_encoder(input_ids=text.ids, attention_mask=text.mask.long(),
                                           encoder_hidden_states=image_states).last_hidden_state

    def _pairs(self, x: Tensor, texts: list[str], batch_size: int) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield states of parts of the pictures, and the texts beside them."""
        check_texts(texts)
        if len(x) != len(texts):
            raise BadParameter(f"got {len(x)} pictures and {len(texts)} texts; give each picture its own text")
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            yield self.image_states(x[rows]), texts[rows]


class _TextReader(nn.Module):
    """A BLIP text encoder as `TextEncoder` takes it: ids (B, T), mask (B, T) -> tokens (B, T, D)."""

    def __init__(self, text_encoder: nn.Module):
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state


def first_state(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the state of the first token, which stands for the text: (B, T, D), (B, T) -> (B, D)."""
    return tokens[:, 0]


def is_blip(name: str) -> bool:
    """Return whether a name is that of a BLIP, embedded or Salesforce's, or a folder holds one of either kind."""
    if name == EMBEDDED or name.startswith(HUB_PREFIX):
        return True
    config = Path(name).expanduser() / "config.json"
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return content.get("model_type") == "blip" or content.get("class") == EmojiBlip.__name__


def load_blip(name: str = EMBEDDED, *, device: torch.device | str = "cpu", local_only: bool = False) -> Blip:
    """Load a BLIP, frozen and in eval mode.

    Args:
        name: "emoji-blip" or a folder like its; "Salesforce/blip-itm-base-coco",
            "Salesforce/blip-image-captioning-base" or another of the Hugging Face hub that matches or writes captions;
            or a folder in their layout.
        local_only: use the Hugging Face cache, never the network.

    Raises:
        MissingAsset: not found. CheckpointMismatch: it is no BLIP, or one of another kind.
    """
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file() and (name == EMBEDDED or (checkpoints_dir() / name).is_dir()):
        folder = checkpoints_dir() / name
        if not folder.is_dir():
            raise MissingAsset(absent_checkpoint(name, checkpoints_dir(), RECIPE))
    is_embedded = (folder / "config.json").is_file() and "class" in json.loads((folder / "config.json").read_text())
    blip = _load_embedded(folder, name) if is_embedded else _load_hub(name, local_only=local_only)
    return blip.to(device)


def _load_embedded(folder: Path, name: str) -> Blip:
    network = load_model(EmojiBlip, folder)
    pieces = BlipPieces(network.tokens.tolist())
    return Blip(network, retrieval=network.retrieval, captioning=network.captioning, tokenizer=pieces, name=name,
                image_size=network.image_size, mean=MEAN, std=MEAN, fingerprint=read_config(folder)["sha256"])


def _load_hub(name: str, *, local_only: bool) -> Blip:
    """Load one in the layout of the hub."""
    import transformers

    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    local_only = local_only or is_folder
    options = {"local_files_only": local_only}
    with hub_or_cache(needed=not local_only) as absence, quiet_transformers():
        try:
            config = transformers.AutoConfig.from_pretrained(str(folder) if is_folder else name, **options)
            kind = _half_of(config, name)
            place = str(folder) if is_folder else name
            network = getattr(transformers, kind).from_pretrained(place, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
            pictures = transformers.AutoImageProcessor.from_pretrained(place, **options)
        except (OSError, ValueError) as error:
            problem = absence or str(error).splitlines()[0]
            raise MissingAsset(f"BLIP {name!r}: not found as a folder, in the Hugging Face cache or on its hub "
                               f"({problem}); give {EMBEDDED!r} (needs no download), a name like "
                               f"'{HUB_PREFIX}itm-base-coco', or a folder in its layout") from error
    stamp = getattr(config, "_commit_hash", None) or (folder_stamp(folder) if is_folder else "")
    return Blip(network, retrieval=network if kind == RETRIEVAL else None,
                captioning=network if kind == CAPTIONING else None, tokenizer=HuggingFaceTokenizer(tokenizer),
                name=name, image_size=config.vision_config.image_size, mean=pictures.image_mean,
                std=pictures.image_std, fingerprint=f"{name}@{stamp}")


def _half_of(config: Any, name: str) -> str:
    """Return the class of transformers that a configuration is of."""
    kinds = [kind for kind in config.architectures or [] if kind in (RETRIEVAL, CAPTIONING)]
    if config.model_type != "blip" or not kinds:
        found = ", ".join(config.architectures or []) or config.model_type
        raise CheckpointMismatch(f"{name} holds {found}; expected {RETRIEVAL}, which matches, or {CAPTIONING}, which "
                                 "writes captions")
    return kinds[0]
