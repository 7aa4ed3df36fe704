"""Questions to the judge: how often does a picture show its prompt, asked strictly, with everything to compare with.

The judge is a CLIP that no method may use. A strict question lets all concept names of the emoji set compete; an easy
one, among a few captions, flatters mush, and is reported beside it.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .alignment import bootstrap_interval, chance_level, retrieval_ranks, synonym_mask, top_k
from .image import encode_pictures, kid, nearest_neighbour
from ..checkpoint import read_tensors, save_tensors
from ..data.kept_files import kept_folder
from ..data.left_out import left_out_rows
from ..data.phrases import plain_name
from ..errors import UnknownName, unknown_name
from ..media import to_unit
from ..paths import cache_dir
from ..runtime import warn_fallback

FORMAT = 1  # of kept features; another one where the same weights give other features
FILE = "features.safetensors"


class Judgement:
    """A judge with the names it asks about.

    Features of all names and of training drawings are kept in `cache_dir()`, by the hash of the judge's weights.

    Args:
        judge: `.encode_image`, `.encode_text`, such as `load_judge()`.
        data: the emoji set, all splits: its names compete, and its pictures are the reference.
        synonyms_above: names whose text features have a larger cosine do not compete, nor do names of one family.

    Attributes:
        names: the M readable concept names. split_of: name -> split. rows_of: name -> rows of the set that show it.
    """

    def __init__(self, judge: Any, data: Any, *, synonyms_above: float = 0.9):
        self.judge = judge
        self.data = data
        self.of_row = [plain_name(name) for name in data.columns["name"]]
        self.rows_of: dict[str, list[int]] = {}
        for i, name in enumerate(self.of_row):
            self.rows_of.setdefault(name, []).append(i)
        self._left_out = {self.of_row[row]: row for row in left_out_rows(data).tolist()}
        self.names = sorted(self.rows_of)
        self.index = {name: i for i, name in enumerate(self.names)}
        first_row = {name: rows[0] for name, rows in self.rows_of.items()}
        self.split_of = {name: data.columns["split"][row] for name, row in first_row.items()}
        self.text = self._kept("\n".join(self.names).encode(), self._name_features)  # (M, D)
        families = [data.columns["family"][first_row[name]] for name in self.names]
        self.synonyms = synonym_mask(self.text, threshold=synonyms_above, families=families)

    def concepts(self, split: str, count: int = 0, *, among: Iterable[str] | None = None) -> list[str]:
        """Return `count` concept names of a split, evenly from the alphabetical list; all for 0 or for too many.

        Args:
            among: names of the data set, such as those of the drawings that a network was trained on; None is all.
        """
        names = [name for name in self.names if self.split_of[name] == split]
        if among is not None:
            allowed = {plain_name(name) for name in among}
            names = [name for name in names if name in allowed]
        count = min(count or len(names), len(names))
        return [names[i * len(names) // count] for i in range(count)]

    def one_row_each(self, names: Sequence[str]) -> list[int]:
        """Return one row of the set for each concept name, the artists in turn."""
        chosen = []
        for k, name in enumerate(names):
            rows = self.rows_of[name]
            chosen.append(rows[k % len(rows)])
        return chosen

    def unseen_rows(self, names: Sequence[str]) -> list[int]:
        """Return for each concept name the drawing that the judge did not train on; the only one where there is one.

        With drawings that it knows, real drawings would look more like their names than any new drawing can.
        """
        return [self._left_out.get(name, self.rows_of[name][0]) for name in names]

    def features(self, images: Tensor, *, batch_size: int = 128) -> Tensor:
        """Return the judge's unit features of pictures: (N, 3, H, W) in [0, 1] -> (N, D)."""
        return encode_pictures(self.judge, images, batch_size=batch_size)

    @torch.no_grad()
    def data_features(self, rows: Sequence[int]) -> Tensor:
        """Return the judge's features of pictures of the data set, on white: (len(rows), D)."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        features = []
        for part in rows.split(256):
            features.append(self.features(to_unit(self.data.batch(part))))
        return torch.cat(features)

    def training_features(self, *, every: bool, count: int = 0) -> Tensor:
        """Return the judge's features of training drawings: every one, or one of each concept, which is quicker.

        Args:
            count: of every one, so many are taken, evenly spread; 0 is all.
        """
        if every:
            rows = self.data.rows_of_split("train", count)
        else:
            rows = self.one_row_each(self.concepts("train"))
        pixels = self.data.images[torch.tensor(rows)].cpu().numpy().tobytes()
        return self._kept(pixels, lambda: self.data_features(rows))

    @torch.no_grad()
    def _name_features(self) -> Tensor:
        return self.judge.encode_text(self.names).cpu()

    def _kept(self, asked: bytes, encode: Callable[[], Tensor]) -> Tensor:
        """Return what `encode` makes of what is asked; where the judge's weights have a hash, from the disk if it can.

        Args:
            asked: all that decides the features beside the weights.
        """
        weights = getattr(self.judge, "sha256", "")
        if not weights:
            return encode()
        key = hashlib.sha256(f"{FORMAT} {weights} {self.judge.device.type} ".encode() + asked).hexdigest()
        features = []

        def write(folder):
            features.append(encode())
            save_tensors(folder / FILE, {"features": features[0]})

        try:
            folder = kept_folder(cache_dir() / "judge" / key[:24], key, write)
        except OSError as error:
            warn_fallback(f"the judge's features are not kept: {error}")
            return features[0] if features else encode()
        return read_tensors(folder / FILE)["features"]

    def targets(self, names: Sequence[str]) -> Tensor:
        """Return the index of each concept name, or raise UnknownName with the nearest ones."""
        for name in names:
            if name not in self.index:
                raise unknown_name("concept", name, self.names)
        return torch.tensor([self.index[name] for name in names])

    def ranks(self, features: Tensor, names: Sequence[str], *, among: str | None = None) -> Tensor:
        """Return the rank of each picture's name, 1 being best: among all names, or those of one split."""
        target = self.targets(names)
        if among is None:
            return retrieval_ranks(features, self.text, target, exclude=self.synonyms[target])
        pool = torch.tensor([i for i, name in enumerate(self.names) if self.split_of[name] == among])
        for name in names:
            if self.split_of[name] != among:
                raise UnknownName(f"{name!r} is in split {self.split_of[name]!r}; "
                                  f"ask among={among!r} only of its own names")
        in_pool = torch.searchsorted(pool, target)  # the targets' places in the pool, which is sorted
        exclude = self.synonyms[target][:, pool]  # (N, size of the pool)
        return retrieval_ranks(features, self.text[pool], in_pool, exclude=exclude)

    def report(self, features: Tensor, names: Sequence[str], *, among: str | None = None,
               real: Tensor | None = None) -> dict[str, float]:
        """Return the numbers that a table shows for pictures of given concepts.

        Args:
            features: of the pictures, from `features`. names: their concepts.
            among: also ask the easy question, among the names of this split.
            real: features of real pictures of the same split, for KID.

        Returns:
            n, top1 and top10 among all names with top10's 95 % interval (low, high), chance10; caption_top1 and
            caption_top5 of the easy question; kid.
        """
        ranks = self.ranks(features, names)
        target = self.targets(names)
        chance = chance_level(target, len(self.names), 10, exclude=self.synonyms[target])
        _, low, high = bootstrap_interval((ranks <= 10).float(), groups=list(names))
        row = {"n": len(names), "top1": top_k(ranks, 1), "top10": top_k(ranks, 10), "low": low, "high": high,
               "chance10": chance}
        if among is not None:
            easy = self.ranks(features, names, among=among)
            row |= {"caption_top1": top_k(easy, 1), "caption_top5": top_k(easy, 5)}
        if real is not None and len(features) > 1:
            row["kid"] = self.kid(features, real)
        return row

    def seen_by(self, eyes: Any, pictures: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return what `Eyes` say of pictures of concepts: `EYES_COLUMNS` and the bounds of `EYES_INTERVALS`."""
        features = eyes.features(pictures)
        return photo_report(self.photo_ranks(eyes, features, names), names) | eyes.row(features, names)

    def photo_ranks(self, eyes: Any, features: Tensor, names: Sequence[str]) -> Tensor:
        """Return the rank of each picture's name by the second judge, among the names that compete for the first.

        Args:
            features: of the pictures, from `eyes.features`. names: their concepts.
        """
        target = self.targets(names)
        return eyes.name_ranks(features, target, exclude=self.synonyms[target])

    def kid(self, features: Tensor, real: Tensor) -> float:
        """Return KID of pictures (N, D) against real ones (M, D), in unit features of the judge."""
        scale = features.shape[1] ** 0.5  # so that KID's x . y / D is their cosine
        return kid(real * scale, features * scale)[0]

    def novelty(self, features: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine of each picture to its nearest training picture, and the position of that picture."""
        return nearest_neighbour(features, training)

    def measured(self, pictures: Tensor, names: Sequence[str], *, training: Tensor, real: Tensor | None = None,
                 eyes: Any = None) -> tuple[dict[str, Any], Tensor]:
        """Return a row of a table about pictures, and the judge's ranks of their names, (N,).

        Args:
            pictures: (N, 3, H, W) in [0, 1], those of one concept next to one another, equally many of each.
            names: (N,), their concepts.
            training: features of training drawings, such as `training_features`.
            real: features of the real pictures of KID; None is `training`.
            eyes: the `Eyes` that look at the pictures, too; None leaves `EYES_COLUMNS` out.

        Returns:
            the numbers of `report`; copy, the mean cosine to the nearest training drawing; shuffled, top10 when each
            picture is asked for the name of another one, half the list away; those of `diversity`; `EYES_COLUMNS`.
        """
        features = self.features(pictures)
        row: dict[str, Any] = self.report(features, names, real=training if real is None else real)
        row["copy"] = self.novelty(features, training)[0].mean().item()
        half = len(names) // 2
        row["shuffled"] = top_k(self.ranks(features, [*names[half:], *names[:half]]), 10)
        concepts = len(set(names))
        if concepts > 1:
            row |= diversity(features.unflatten(0, (concepts, -1)).transpose(0, 1))
        if eyes is not None:
            row |= self.seen_by(eyes, pictures, names)
        return row, self.ranks(features, names)


def photo_report(ranks: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return what a table shows of `Judgement.photo_ranks`, (N,), of pictures of given concepts.

    Returns:
        photo10 and photo1, the shares with the right name among the first ten and first; photo10's 95 % interval
        (photo_low, photo_high) over concepts.
    """
    found, low, high = bootstrap_interval((ranks <= 10).float(), groups=list(names))
    return {"photo10": found, "photo1": top_k(ranks, 1), "photo_low": low, "photo_high": high}


def diversity(features: Tensor) -> dict[str, float]:
    """Return how far pictures are from one another: the mean of 1 - cosine between prompts, and within one of several
    seeds.

    Shapes:
        features: (seeds, prompts, D) of length 1, at least two prompts
    """
    features = features.double()
    found = {"between": _mean_distance(features)}
    if len(features) > 1:
        of_prompts = features.transpose(0, 1)  # (prompts, seeds, D)
        found["within"] = _mean_distance(of_prompts)
    return found


def _mean_distance(features: Tensor) -> float:
    """Return the mean of 1 - cosine over pairs of different items inside each group.

    Shapes:
        features: (groups, items, D)
    """
    count = features.shape[1]
    cosines = features @ features.transpose(1, 2)  # (groups, items, items)
    on_diagonal = cosines.diagonal(dim1=1, dim2=2).sum()
    mean = (cosines.sum() - on_diagonal) / (len(features) * count * (count - 1))
    return 1 - mean.item()
