"""Text encoders by name: MiniLM from its pip package, BLIP's, T5 and any encoder of the Hugging Face hub."""

import torch

from .blip import is_blip, load_blip
from .hugging_face import load_hugging_face
from .minilm import MAX_LENGTH, SHA256, WIDTH, load_minilm, minilm_here
from .text import TextEncoder
from ..errors import BadParameter


def load_text_encoder(name: str = "minilm", *, device: torch.device | str = "cpu", max_length: int | None = None,
                      local_only: bool = False) -> TextEncoder:
    """Load a frozen text encoder.

    Args:
        name: "minilm" (all-MiniLM-L6-v2, D = 384, from its pip package, never a download; where a bundle brought it in
            half precision instead, that, under its own name "minilm-half"); "emoji-blip" or another BLIP, of which
            the text encoder is taken (`load_blip`); "t5-small", "t5-base", "t5-v1_1-large", ...; any encoder of the
            Hugging Face hub; or a folder written by `save_pretrained`.
        max_length: cut texts after so many tokens; None takes the model's own limit (at most 512).
        local_only: use the Hugging Face cache, never the network.

    Raises:
        MissingAsset: package, folder or hub model not found.
        CheckpointMismatch: the weights of MiniLM are not the expected ones.
    """
    if is_blip(name):
        blip = load_blip(name, device=device, local_only=local_only)
        _check_length(max_length, blip.max_length, name)
        return blip.text_encoder(max_length=max_length)
    if name in SHA256:
        model, tokenizer = load_minilm(name)
        name = minilm_here(name)
        dim = WIDTH
        limit = MAX_LENGTH
        fingerprint = SHA256[name]
    else:
        model, tokenizer, dim, limit, fingerprint = load_hugging_face(name, local_only=local_only)
    _check_length(max_length, limit, name)
    return TextEncoder(model.to(device), tokenizer, name=name, dim=dim, max_length=max_length or limit,
                       fingerprint=fingerprint)


def _check_length(max_length: int | None, limit: int, name: str) -> None:
    if max_length is not None and not 0 < max_length <= limit:
        raise BadParameter(f"max_length: got {max_length}, expected 1 to {limit} for {name}")
