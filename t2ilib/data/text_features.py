"""What a frozen text encoder says of many texts: encoded once, kept on disk, each at its true length.

    texts, where = caption_table(data)
    features = encode_texts(load_text_encoder("minilm"), texts, cache=cache_dir() / "texts")
    tokens, mask, pooled = features.batch(where[indices, 0], device)   # (B, T, E), (B, T), (B, E)

Token features lie one text after another in half precision, so that a short caption costs what it is long, and a set
larger than the memory stays on disk: the file is mapped, and a batch reads only its own rows. Whoever needs only one
vector for each text takes `pool_texts`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .kept_files import kept_folder
from .. import runtime
from ..checkpoint import read_tensors, save_tensors
from ..errors import BadParameter

FORMAT = 2
TOKENS = "tokens.npy"
ROWS = "rows.safetensors"


class EncodedTexts:
    """Token features and one vector for each of N texts; equal texts share theirs.

    Attributes:
        tokens: (M, E) float16, all distinct texts one after another; on disk where a cache was given.
        starts, lengths: (D,) int64, where each of the D distinct texts begins, and its number of tokens.
        pooled: (D, E) float32. rows: (N,) int64, which of the distinct texts each text is.
        cut: how many of the N texts lost tokens to `longest`.
    """

    def __init__(self, tokens: Tensor, starts: Tensor, lengths: Tensor, pooled: Tensor, rows: Tensor, *, cut: int = 0):
        self.tokens = tokens
        self.starts = starts
        self.lengths = lengths
        self.pooled = pooled
        self.rows = rows
        self.cut = cut

    @classmethod
    def of_batch(cls, tokens: Tensor, mask: Tensor, pooled: Tensor) -> "EncodedTexts":
        """Keep what an encoder said of N texts in one batch, such as of texts read together with pictures.

        None of them counts as equal to another: equal words beside other pictures have other features.

        Shapes:
            tokens: (N, T, E), mask: (N, T) bool, real tokens first, pooled: (N, E); kept on the CPU
        """
        lengths = mask.sum(1).cpu()  # (N,)
        kept = tokens[mask].half().cpu()  # (sum of lengths, E)
        return cls(kept, lengths.cumsum(0) - lengths, lengths, pooled.float().cpu(), torch.arange(len(lengths)))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        mib = (self.tokens.nbytes + self.pooled.nbytes) / 2**20
        return (f"EncodedTexts({len(self)} texts, {len(self.lengths)} distinct, {self.dim} numbers a token, at most "
                f"{self.longest} tokens, {mib:.1f} MiB)")

    @property
    def dim(self) -> int:
        """Return E, the width of the features."""
        return self.tokens.shape[1]

    @property
    def longest(self) -> int:
        """Return the number of tokens of the longest text."""
        return int(self.lengths.max())

    def to(self, device: torch.device | str) -> "EncodedTexts":
        """Return the same features in the memory of a device, where batches are cut out without a copy from here."""
        return EncodedTexts(self.tokens.to(device), self.starts.to(device), self.lengths.to(device),
                            self.pooled.to(device), self.rows.to(device), cut=self.cut)

    def batch(self, indices: Tensor | Sequence[int], device: torch.device | str | None = None, *,
              dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of B texts as networks take them; T is the longest of these B.

        Args:
            indices: positions in the list of texts. device: where the result goes; None is where the features are.
            dtype: of tokens and pooled; they travel to the device in half precision.

        Shapes:
            tokens (B, T, E), zero where there is none; mask (B, T) bool; pooled (B, E)

        Raises:
            BadParameter: an index is out of range.
        """
        indices = torch.as_tensor(indices, dtype=torch.long, device=self.rows.device).reshape(-1)  # (B,)
        if len(indices) and not -len(self) <= int(indices.min()) <= int(indices.max()) < len(self):
            raise BadParameter(f"an index lies outside the {len(self)} texts: {int(indices.min())}.."
                               f"{int(indices.max())}")
        device = self.rows.device if device is None else device
        rows = self.rows[indices]  # (B,)
        lengths = self.lengths[rows, None]  # (B, 1)
        longest = int(lengths.max()) if len(rows) else 0
        place = torch.arange(longest, device=lengths.device)  # (T,)
        mask = place < lengths  # (B, T)
        # past its end a text repeats its last token, which the mask then clears
        inside = place.minimum((lengths - 1).clamp(min=0))
        positions = self.starts[rows, None] + inside  # (B, T)
        last = max(0, len(self.tokens) - 1)
        tokens = self.tokens[positions.clamp(max=last)].to(device).to(dtype)  # (B, T, E)
        mask = mask.to(device)
        return tokens.masked_fill_(~mask[..., None], 0), mask, self.pooled[rows].to(device).to(dtype)


def encode_texts(text_encoder: Any, texts: Sequence[str], *, cache: str | Path | None = None,
                 longest: int | None = None, batch_size: int = 256, dtype: torch.dtype = torch.float32,
                 progress: str = "texts") -> EncodedTexts:
    """Encode texts on the encoder's own device, each distinct one once; or read what an earlier call left on disk.

    What lies in `cache` is found by a hash of the encoder (its name, its weights, its own limit), of `longest`, of
    `dtype` and of the texts: another encoder or another list never reads it. What is damaged is encoded again, with a
    warning.

    Args:
        text_encoder: `encode(list of strings) -> tokens (B, T, E), mask (B, T), pooled (B, E)`; real tokens come first.
        cache: folder that keeps the features; None keeps them in memory.
        longest: keep so many tokens of a text, with a warning if that cuts any; the pooled feature is of the whole.
        batch_size: texts that the encoder gets at a time, of similar length.
        dtype: precision in which the encoder computes (`runtime.pick_dtype`). progress: what the bar is called.

    Raises:
        BadParameter: no list of strings, or features that do not fit in half precision.
    """
    _check(texts, batch_size, longest)
    distinct, rows = _distinct(texts)

    def batches() -> Iterator[_Batch]:
        return _encode(text_encoder, distinct, longest, batch_size, dtype, progress)

    if cache is None:
        tokens, table = _in_memory(batches(), len(distinct))
    else:
        key = _key(text_encoder, distinct, ["tokens", longest, str(dtype)])
        folder = Path(cache).expanduser() / f"texts-{key[:24]}"
        tokens, table = _read(kept_folder(folder, key, lambda scratch: _write(scratch, batches(), len(distinct))))
    cut = int(table.pop("cut")[rows].sum())
    if cut:
        runtime.warn_fallback(f"{cut} of {len(texts)} texts are longer than longest={longest} tokens; their ends are "
                              "left out")
    return EncodedTexts(tokens, **table, rows=rows, cut=cut)


def pool_texts(text_encoder: Any, texts: Sequence[str], *, cache: str | Path | None = None, batch_size: int = 128,
               dtype: torch.dtype = torch.float32) -> Tensor:
    """Return one vector for each of N texts, (N, E) float32 on the CPU; from the disk if an earlier call left them.

    Arguments and errors as in `encode_texts`.

    Args:
        text_encoder: `pooled(list of strings, batch_size=...) -> (B, E)`.
    """
    _check(texts, batch_size)
    distinct, rows = _distinct(texts)

    def encode() -> Tensor:
        with runtime.autocast(text_encoder.device, dtype):
            return text_encoder.pooled(distinct, batch_size=batch_size).float().cpu()

    if cache is None:
        return encode()[rows]
    key = _key(text_encoder, distinct, ["pooled", str(dtype)])
    folder = Path(cache).expanduser() / f"pooled-{key[:24]}"
    folder = kept_folder(folder, key, lambda scratch: save_tensors(scratch / ROWS, {"pooled": encode()}))
    return read_tensors(folder / ROWS)["pooled"][rows]


def _check(texts: Sequence[str], batch_size: int, longest: int | None = None) -> None:
    if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise BadParameter(f"texts: got {type(texts).__name__}, expected a list of one or more strings")
    if batch_size < 1 or (longest is not None and longest < 1):
        raise BadParameter(f"need batch_size >= 1 and longest >= 1 or None, got {batch_size} and {longest}")


def _distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Return the distinct texts in their order, and which of them each text is, (N,)."""
    position: dict[str, int] = {}
    for text in texts:
        position.setdefault(text, len(position))
    return list(position), torch.tensor([position[text] for text in texts])


class _Batch(NamedTuple):
    """Features of some texts.

    Attributes:
        indices: (b,) which texts. lengths: (b,) tokens of each. cut: (b,) bool, whether it lost some.
        tokens: (sum of lengths, E) float16. pooled: (b, E) float32. All on the CPU.
    """

    indices: Tensor
    lengths: Tensor
    cut: Tensor
    tokens: Tensor
    pooled: Tensor


@torch.no_grad()
def _encode(text_encoder: Any, texts: list[str], longest: int | None, batch_size: int, dtype: torch.dtype,
            progress: str) -> Iterator[_Batch]:
    """Yield the features of all texts; those of similar length share a batch, so that little is spent on padding."""
    device = getattr(text_encoder, "device", torch.device("cpu"))
    order = torch.tensor(sorted(range(len(texts)), key=lambda i: len(texts[i])))
    for indices in runtime.progress(order.split(batch_size), desc=progress):
        with runtime.autocast(device, dtype):
            tokens, mask, pooled = text_encoder.encode([texts[i] for i in indices])
        full = mask.sum(1).cpu()  # (b,)
        limit = longest or int(full.max())
        lengths = full.clamp(max=limit)
        kept = torch.arange(mask.shape[1]) < lengths[:, None]  # (b, T)
        half = tokens[kept.to(tokens.device)].half().cpu()  # (sum of lengths, E)
        if not half.isfinite().all():
            raise BadParameter(f"features of {getattr(text_encoder, 'name', 'this encoder')} do not fit in half "
                               "precision; use an encoder that ends in a normalisation")
        yield _Batch(indices, lengths, full > limit, half, pooled.float().cpu())


class _Table:
    """What is known of each of D distinct texts beside its tokens, filled batch by batch."""

    def __init__(self, texts: int):
        self.starts = torch.zeros(texts, dtype=torch.long)
        self.lengths = torch.zeros(texts, dtype=torch.long)
        self.cut = torch.zeros(texts, dtype=torch.bool)
        self.pooled: Tensor | None = None
        self.end = 0  # tokens so far

    def add(self, batch: _Batch) -> None:
        if self.pooled is None:
            self.pooled = torch.zeros(len(self.starts), batch.pooled.shape[1])
        self.pooled[batch.indices] = batch.pooled
        self.lengths[batch.indices] = batch.lengths
        self.cut[batch.indices] = batch.cut
        self.starts[batch.indices] = self.end + batch.lengths.cumsum(0) - batch.lengths
        self.end += len(batch.tokens)

    def tensors(self) -> dict[str, Tensor]:
        return {"starts": self.starts, "lengths": self.lengths, "pooled": self.pooled, "cut": self.cut}


def _in_memory(batches: Iterator[_Batch], texts: int) -> tuple[Tensor, dict[str, Tensor]]:
    table = _Table(texts)
    tokens = []
    for batch in batches:
        table.add(batch)
        tokens.append(batch.tokens)
    return torch.cat(tokens), table.tensors()


def _write(folder: Path, batches: Iterator[_Batch], texts: int) -> None:
    """Write the tokens as they come, so that they never fill the memory; the header, which counts them, comes last."""
    table = _Table(texts)
    width = 0
    with open(folder / TOKENS, "wb") as file:
        for batch in batches:
            if not width:
                width = batch.tokens.shape[1]
                _write_header(file, 0, width)
            table.add(batch)
            file.write(batch.tokens.contiguous().numpy().data)
        file.seek(0)
        _write_header(file, table.end, width)
    save_tensors(folder / ROWS, table.tensors())


def _write_header(file: BinaryIO, rows: int, width: int) -> None:
    """Write the header of an array (rows, width) float16; numpy leaves room in it for a first axis that grows."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


def _read(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    tokens = np.load(folder / TOKENS, mmap_mode="c")  # pages come when they are read; nothing is written back
    return torch.from_numpy(tokens), read_tensors(folder / ROWS)


def _key(text_encoder: Any, texts: list[str], settings: list[Any]) -> str:
    """Return a hash of everything that decides the features.

    Raises:
        BadParameter: nothing tells this encoder from another one.
    """
    kind = type(text_encoder).__name__
    name = getattr(text_encoder, "name", None)
    fingerprint = getattr(text_encoder, "fingerprint", None)
    limit = getattr(text_encoder, "max_length", None)
    model = getattr(text_encoder, "model", None)
    if model is None and not name and not fingerprint:
        raise BadParameter(f"{kind} has neither a name, a fingerprint nor a model by which its features could be "
                           "found again; use cache=None")
    digest = hashlib.sha256(json.dumps([FORMAT, kind, name, fingerprint, limit, settings, texts]).encode())
    if isinstance(model, torch.nn.Module):
        for key, tensor in model.state_dict().items():
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
