"""all-MiniLM-L6-v2 in plain torch: the network, its word pieces, and its weights from the pip package or a bundle.

Wang et al. 2020, arXiv:2002.10957; trained for sentences by Reimers and Gurevych 2019, arXiv:1908.10084.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import minilm_half
from ..assets import BUNDLED, PACKAGED, bundled_file, bundled_in_place, packaged_file
from ..checkpoint import read_tensors
from ..errors import check_name
from ..layers.attention import fused_attention, merge_heads, split_heads
from ..runtime import warn_fallback

NAME = "all-MiniLM-L6-v2"
FULL = "minilm"  # as records call it
HALF = "minilm-half"  # its pooled features differ by up to 0.0003
SHA256 = {FULL: PACKAGED[NAME].sha256, HALF: BUNDLED[minilm_half.NAME].sha256}
WIDTH = 384
MAX_LENGTH = 256  # tokens; the length that sentence-transformers gives this model


def minilm_here(name: str = FULL) -> str:
    """Return which weights stand for a name here: "minilm-half" for "minilm" where only a bundle brought them."""
    check_name("weights of MiniLM", name, SHA256)
    return HALF if NAME in bundled_in_place() else name


def minilm_folder(name: str = FULL, *, check: bool = True) -> Path:
    """Return the folder of all-MiniLM-L6-v2, the hash of its weights checked.

    Args:
        name: "minilm", in its pip package or, where only that is here, in half precision; or "minilm-half".

    Raises:
        MissingAsset: the package is not installed.
        CheckpointMismatch: the weights are not the expected ones.
    """
    if minilm_here(name) == HALF:
        return bundled_file(minilm_half.NAME, check=check).parent
    return packaged_file(NAME, check=check).parent


class MiniLM(nn.Module):
    """A BERT encoder: norms after each sum, absolute positions, GELU.

    Its parameters have the names of the package's file, which are those of transformers' `BertModel`.

    Shapes:
        ids (B, T) int64, mask (B, T): not zero at real tokens -> tokens (B, T, width)

    References:
        Devlin et al. 2018, arXiv:1810.04805.
    """

    def __init__(self, *, vocabulary: int = 30522, width: int = WIDTH, hidden: int = 1536, depth: int = 6,
                 heads: int = 12, positions: int = 512, sentence_types: int = 2):
        super().__init__()
        self.embeddings = nn.ModuleDict({
            "word_embeddings": _table(vocabulary, width),
            "position_embeddings": _table(positions, width),
            "token_type_embeddings": _table(sentence_types, width),
            "LayerNorm": _norm(width)})
        layers = [Layer(width, hidden, heads) for _ in range(depth)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        words = self.embeddings["word_embeddings"](ids)  # (B, T, width)
        first_sentence = self.embeddings["token_type_embeddings"].weight[0]  # (width,); no text here has a second
        x = words + first_sentence + self.embeddings["position_embeddings"](positions)
        x = self.embeddings["LayerNorm"](x)
        real = mask.bool()[:, None, None, :]  # (B, 1, 1, T), broadcast to (B, heads, T, T)
        for layer in self.encoder["layer"]:
            x = layer(x, real)
        return x


class Layer(nn.Module):
    """Self-attention and two dense layers, each added to its input and then normalised."""

    def __init__(self, width: int, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
            "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": _norm(width)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": _norm(width)})

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        projections = self.attention["self"]
        q = split_heads(projections["query"](x), self.heads)  # (B, heads, T, d)
        k = split_heads(projections["key"](x), self.heads)
        v = split_heads(projections["value"](x), self.heads)
        attended = merge_heads(fused_attention(q, k, v, real))  # (B, T, width)
        out = self.attention["output"]
        x = out["LayerNorm"](out["dense"](attended) + x)
        h = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](self.output["dense"](h) + x)


def _table(rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose values are not set: drawing 12 million of them takes longer than reading them."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-12)


class WordPieces:
    """MiniLM's tokenizer: lower case, accents off, words cut into pieces of a vocabulary of 30,522.

    Attributes:
        padding: the id that fills short rows up.

    References:
        Wu et al. 2016, arXiv:1609.08144, section 4.1.
    """

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._end = self._tokenizer.token_to_id("[SEP]")
        self.padding = self._tokenizer.token_to_id("[PAD]")

    def __call__(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text between [CLS] and [SEP]; with `max_length`, the end of longer texts is cut."""
        rows = []
        for encoding in self._tokenizer.encode_batch(texts):
            ids = encoding.ids
            if max_length is not None and len(ids) > max_length:
                ids = [*ids[:max_length - 1], self._end]
            rows.append(ids)
        return rows

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text as words, [CLS] and [SEP] included."""
        return self._tokenizer.encode(text).tokens

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out, in lower case."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def load_minilm(name: str = FULL) -> tuple[MiniLM, WordPieces]:
    """Return the frozen network and its tokenizer; arguments and errors as in `minilm_folder`.

    It warns where the weights in half precision take the place of those that were asked for.
    """
    found = minilm_here(name)
    if found != name:
        warn_fallback(f"texts are read by {found}, because the package {PACKAGED[NAME].package} is not installed here; "
                      "pictures differ a little")
    folder = minilm_folder(name)
    path = folder / "model.safetensors"
    state = minilm_half.read_half(path) if found == HALF else read_tensors(path)
    for unused in minilm_half.UNUSED:
        state.pop(unused, None)
    with torch.device("meta"):  # without memory: the weights are the file's own, mapped, and read where they are used
        model = MiniLM()
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False), WordPieces(folder)
