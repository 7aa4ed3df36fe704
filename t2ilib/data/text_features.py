"""What a frozen text encoder says of many texts: encoded once, kept on disk, each at its true length.

    texts, where = caption_table(data)
    features = encode_texts(load_text_encoder("minilm"), texts, cache=cache_dir() / "texts")
    tokens, mask, pooled = features.batch(where[indices, 0], device)   # (B, T, E), (B, T), (B, E)

Token features lie one text after another in half precision, so that a short caption costs what it is long, and a set
larger than the memory stays on disk: the file is mapped, and a batch reads only its own rows.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import runtime
from ..checkpoint import save_tensors
from ..errors import BadParameter, CheckpointMismatch
from ..files import sha256_of, write_json

FORMAT = 1
TOKENS, ROWS, INFO = "tokens.npy", "rows.safetensors", "info.json"


class EncodedTexts:
    """Token features and one vector for each of N texts; equal texts share theirs.

    Attributes:
        tokens: (M, E) float16, all distinct texts one after another; on disk where a cache was given.
        starts, lengths: (D,) int64, where each of the D distinct texts begins, and its number of tokens.
        pooled: (D, E) float32. rows: (N,) int64, which of the distinct texts each text is.
        cut: how many of the N texts lost tokens to `longest`.
    """

    def __init__(self, tokens: Tensor, starts: Tensor, lengths: Tensor, pooled: Tensor, rows: Tensor, *, cut: int = 0):
        self.tokens, self.starts, self.lengths, self.pooled, self.rows = tokens, starts, lengths, pooled, rows
        self.cut = cut

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        size = sum(t.numel() * t.element_size() for t in (self.tokens, self.pooled)) / 2**20
        return (f"EncodedTexts({len(self)} texts, {len(self.lengths)} distinct, {self.dim} numbers a token, at most "
                f"{self.longest} tokens, {size:.1f} MiB)")

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
        parts = (t.to(device) for t in (self.tokens, self.starts, self.lengths, self.pooled, self.rows))
        return EncodedTexts(*parts, cut=self.cut)

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
        indices = torch.as_tensor(indices, dtype=torch.long, device=self.rows.device).reshape(-1)
        if len(indices) and not -len(self) <= int(indices.min()) <= int(indices.max()) < len(self):
            raise BadParameter(f"an index lies outside the {len(self)} texts: {int(indices.min())}.."
                               f"{int(indices.max())}")
        device, rows = self.rows.device if device is None else device, self.rows[indices]
        lengths = self.lengths[rows, None]
        place = torch.arange(int(lengths.max()) if len(rows) else 0, device=lengths.device)
        mask = place < lengths
        where = self.starts[rows, None] + place.minimum((lengths - 1).clamp(min=0))
        tokens = self.tokens[where.clamp(max=max(0, len(self.tokens) - 1))].to(device).to(dtype)
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
    _check(texts, longest, batch_size)
    position: dict[str, int] = {}
    rows = torch.tensor([position.setdefault(text, len(position)) for text in texts])
    distinct = list(position)

    def encode(keep: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        return _encode(text_encoder, distinct, keep, longest, batch_size, dtype, progress)

    if cache is None:
        parts: list[Tensor] = []
        found = encode(parts.append)
        tokens = torch.cat(parts)
    else:
        key = _key(text_encoder, distinct, longest, dtype)
        tokens, found = _kept(Path(cache).expanduser() / f"texts-{key[:24]}", key, encode)
    cut = int(found.pop("cut")[rows].sum())
    if cut:
        runtime.warn_fallback(f"{cut} of {len(texts)} texts are longer than longest={longest} tokens; their ends are "
                              "left out")
    return EncodedTexts(tokens, **found, rows=rows, cut=cut)


def _check(texts: Sequence[str], longest: int | None, batch_size: int) -> None:
    if isinstance(texts, str) or not len(texts) or not all(isinstance(t, str) for t in texts):
        raise BadParameter(f"texts: got {type(texts).__name__}, expected a list of one or more strings")
    if batch_size < 1 or (longest is not None and longest < 1):
        raise BadParameter(f"need batch_size >= 1 and longest >= 1 or None, got {batch_size} and {longest}")


@torch.no_grad()
def _encode(text_encoder: Any, texts: list[str], keep: Callable[[Tensor], Any], longest: int | None, batch_size: int,
            dtype: torch.dtype, progress: str) -> dict[str, Tensor]:
    """Hand the tokens of all texts (m, E) to `keep`, batch by batch; return where each begins, and what else is known.

    Texts of similar length share a batch, so that little is spent on padding.
    """
    order = torch.tensor(sorted(range(len(texts)), key=lambda i: len(texts[i])))
    lengths, starts = torch.zeros(2, len(texts), dtype=torch.long)
    cut, pooled, end = torch.zeros(len(texts), dtype=torch.bool), None, 0
    device = getattr(text_encoder, "device", torch.device("cpu"))
    for chunk in runtime.progress(order.split(batch_size), desc=progress):
        with runtime.autocast(device, dtype):
            tokens, mask, vectors = text_encoder.encode([texts[i] for i in chunk])
        pooled = torch.zeros(len(texts), vectors.shape[1]) if pooled is None else pooled
        full = mask.sum(1).cpu()
        most = longest or int(full.max())
        lengths[chunk], cut[chunk] = full.clamp(max=most), full > most
        pooled[chunk] = vectors.float().cpu()
        starts[chunk] = end + lengths[chunk].cumsum(0) - lengths[chunk]
        kept = (torch.arange(mask.shape[1]) < lengths[chunk, None]).to(tokens.device)
        half = tokens[kept].half().cpu()
        if not half.isfinite().all():
            raise BadParameter(f"features of {getattr(text_encoder, 'name', 'this encoder')} do not fit in half "
                               "precision; use an encoder that ends in a normalisation")
        keep(half)
        end += len(half)
    return {"starts": starts, "lengths": lengths, "pooled": pooled, "cut": cut}


def _key(text_encoder: Any, texts: list[str], longest: int | None, dtype: torch.dtype) -> str:
    """Return a hash of everything that decides the features.

    Raises:
        BadParameter: nothing tells this encoder from another one.
    """
    names = [type(text_encoder).__name__, *(getattr(text_encoder, a, None) for a in ("name", "fingerprint"))]
    model = getattr(text_encoder, "model", None)
    if model is None and not any(names[1:]):
        raise BadParameter(f"{names[0]} has neither a name, a fingerprint nor a model by which its features could be "
                           "found again; use cache=None")
    digest = hashlib.sha256(json.dumps([FORMAT, *names, getattr(text_encoder, "max_length", None), longest, str(dtype),
                                        texts]).encode())
    for name, tensor in model.state_dict().items() if isinstance(model, torch.nn.Module) else ():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _kept(folder: Path, key: str, encode: Callable[..., dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the features in a folder, which are encoded first if they are absent or not what they should be."""
    if folder.exists():
        try:
            return _read(folder, key)
        except CheckpointMismatch as error:
            runtime.warn_fallback(f"{error}; the texts are encoded again")
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        _write(scratch, key, encode)
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _read(folder, key)


def _write(folder: Path, key: str, encode: Callable[..., dict[str, Tensor]]) -> None:
    """Write the tokens as they come, so that they never fill the memory; the header, which counts them, comes last."""
    shape = [0, 0]

    def header(file: Any) -> None:  # numpy leaves room in it for a first axis that grows
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": tuple(shape)})

    with open(folder / TOKENS, "wb") as file:
        def keep(tokens: Tensor) -> None:
            if not shape[1]:
                shape[1] = tokens.shape[1]
                header(file)
            file.write(tokens.contiguous().numpy().data)
            shape[0] += len(tokens)

        rows = encode(keep)
        file.seek(0)
        header(file)
    save_tensors(folder / ROWS, rows)
    write_json(folder / INFO, {"format": FORMAT, "key": key, "texts": len(rows["lengths"]), "tokens": shape[0],
                               "sha256": {name: sha256_of(folder / name) for name in (TOKENS, ROWS)}})


def _read(folder: Path, key: str) -> tuple[Tensor, dict[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        damaged = [name for name in (TOKENS, ROWS) if sha256_of(folder / name) != info["sha256"][name]]
        foreign = info["key"] != key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointMismatch(f"{folder} holds no whole text features ({error})") from error
    if damaged or foreign:
        what = f"{' and '.join(damaged)} changed on disk" if damaged else "it belongs to other texts or encoders"
        raise CheckpointMismatch(f"{folder} cannot be used: {what}")
    tokens = np.load(folder / TOKENS, mmap_mode="c")  # pages come when they are read; nothing is written back
    return torch.from_numpy(tokens), load_file(folder / ROWS)
