"""T5, BERT and other text encoders of the Hugging Face hub, through transformers."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..assets import hub_or_cache
from ..errors import MissingAsset
from ..files import sha256_of

# Short names that papers and notebooks use, and where the hub keeps them.
HUB_OWNERS = {"t5-v1_1-": "google/", "flan-t5-": "google/", "t5-": "google-t5/", "bert-base-": "google-bert/"}
LONGEST = 512  # tokens, whatever more a model could read


class HuggingFaceEncoder(nn.Module):
    """A transformers encoder as a network of two tensors: ids (B, T), mask (B, T) -> tokens (B, T, D)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state


class HuggingFaceTokenizer:
    """A transformers tokenizer as a function from texts to rows of ids.

    Attributes:
        tokenizer: that of transformers. padding: the id that fills short rows up.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.padding = tokenizer.pad_token_id or 0

    def __call__(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text with its special tokens; with `max_length`, the end of longer texts is cut."""
        limit = {} if max_length is None else {"max_length": max_length}
        batch = self.tokenizer(texts, truncation=max_length is not None, padding=False, verbose=False, **limit)
        return batch["input_ids"]

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text as words, special ones included."""
        return self.tokenizer.convert_ids_to_tokens(self([text])[0])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class HuggingFaceText(NamedTuple):
    """What is needed to use a text encoder of the hub.

    Attributes:
        dim: D. max_length: most tokens that it reads. fingerprint: tells its weights from others under its name.
    """

    model: HuggingFaceEncoder
    tokenizer: HuggingFaceTokenizer
    dim: int
    max_length: int
    fingerprint: str


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' loading bars and reports (an unused pooler is no news) for the length of a block."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def load_hugging_face(name: str, *, local_only: bool) -> HuggingFaceText:
    """Load an encoder by name, or from a folder written by `save_pretrained`.

    Raises:
        MissingAsset: not found.
    """
    from transformers import AutoModelForTextEncoding, AutoTokenizer

    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    place = str(folder) if is_folder else _hub_name(name)
    local_only = local_only or is_folder
    with hub_or_cache(needed=not local_only) as absence, quiet_transformers():
        try:
            model = AutoModelForTextEncoding.from_pretrained(place, local_files_only=local_only)
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local_only)
        except (OSError, ValueError) as error:
            problem = absence or str(error).splitlines()[0]
            raise MissingAsset(
                f"text encoder {name!r}: not found as a folder, in the Hugging Face cache or on its hub as {place!r} "
                f"({problem}); give 'minilm' (needs no download), a name like 't5-small', or a folder written by "
                "save_pretrained") from error
    positions = getattr(model.config, "max_position_embeddings", None)
    max_length = min(tokenizer.model_max_length, positions or LONGEST, LONGEST)
    stamp = getattr(model.config, "_commit_hash", None) or (folder_stamp(folder) if is_folder else "")
    dim = getattr(model.config, "hidden_size", None) or model.config.d_model
    return HuggingFaceText(HuggingFaceEncoder(model), HuggingFaceTokenizer(tokenizer), dim, max_length,
                           f"{place}@{stamp}")


def _hub_name(name: str) -> str:
    """Return where the hub keeps what papers call by a short name; other names as they are."""
    for prefix, owner in HUB_OWNERS.items():
        if name.startswith(prefix):
            return owner + name
    return name


def folder_stamp(folder: Path) -> str:
    """Return what tells the weights in a folder from others."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin"})
    return ",".join(sha256_of(path)[:16] for path in files)
