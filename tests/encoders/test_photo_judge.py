"""The judge that has seen photographs: what it is fitted to, whom it refuses, and that it is the one that ships."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F
from torch.testing import assert_close

from t2ilib.checkpoint import read_config, save_model
from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name
from t2ilib.encoders import load_clip
from t2ilib.encoders.efficientnet_lite import HEAD_WIDTH
from t2ilib.encoders.photo_clip import FLOOR
from t2ilib.encoders.photo_judge import PHOTO_JUDGE, PhotoJudge, load_photo_judge
from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.metrics.alignment import retrieval_ranks
from t2ilib.paths import checkpoints_dir

CONCEPTS, EACH = 24, 5


@pytest.fixture(scope="module")
def pictures():
    """Features of pictures of some concepts, in which an artist's hand is larger than what is shown."""
    stream = torch.Generator().manual_seed(0)
    thing = 0.3 * torch.randn(CONCEPTS, 1, HEAD_WIDTH, generator=stream)
    hand = 4 * torch.randn(1, 6, HEAD_WIDTH, generator=stream) * (torch.arange(HEAD_WIDTH) < 40)
    weight = torch.randn(CONCEPTS, EACH + 1, 6, generator=stream)
    noise = 0.3 * torch.randn(CONCEPTS, EACH + 1, HEAD_WIDTH, generator=stream)
    features = (4 + thing + weight @ hand[0] + noise).clamp(min=0)  # (C, EACH + 1, 1280)
    return features[:, :EACH].flatten(0, 1), features[:, EACH], torch.arange(CONCEPTS).repeat_interleave(EACH)


def test_it_is_linear_discriminant_analysis(pictures):
    features, new, concepts = pictures
    judge = PhotoJudge(concepts=CONCEPTS, directions=CONCEPTS - 1).fit(features, concepts, shrinkage=0.2)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.2, n_components=CONCEPTS - 1)
    roots = (features + FLOOR).sqrt().double().numpy()
    lda.fit(roots, concepts.numpy())

    def seen(x):
        return F.normalize(torch.from_numpy(lda.transform(x - roots.mean(0))), dim=1)

    expected = (seen((new + FLOOR).sqrt().double().numpy()) @ seen(lda.means_).T).float()
    assert_close(judge(new) @ judge.prototypes.T, expected, atol=1e-3, rtol=0)


def test_it_forgets_the_hand_and_sees_the_thing(pictures):
    features, new, concepts = pictures
    judge = PhotoJudge(concepts=CONCEPTS, directions=CONCEPTS - 1).fit(features, concepts)
    targets = torch.arange(CONCEPTS)
    assert (retrieval_ranks(judge(new), judge.prototypes, targets) == 1).all()
    means = features.unflatten(0, (CONCEPTS, EACH)).mean(1)
    plain = retrieval_ranks(new - features.mean(0), means - features.mean(0), targets)
    assert (plain == 1).float().mean() < 0.9


def test_what_cannot_be_fitted_is_refused(pictures):
    features, _, concepts = pictures
    with pytest.raises(BadParameter, match="may guide and must not judge"):
        PhotoJudge(concepts=CONCEPTS, directions=4, network="efficientnet-lite0")
    with pytest.raises(BadParameter, match="24 concepts span 23 directions at most"):
        PhotoJudge(concepts=CONCEPTS, directions=CONCEPTS)
    judge = PhotoJudge(concepts=CONCEPTS + 1, directions=4)
    with pytest.raises(BadParameter, match="pictures of 24 concepts for 25"):
        judge.fit(features, concepts)
    with pytest.raises(BadParameter, match="shrinkage"):
        PhotoJudge(concepts=CONCEPTS, directions=4).fit(features, concepts, shrinkage=0.0)


def test_it_comes_back_from_a_folder(pictures, tmp_path):
    features, new, concepts = pictures
    judge = PhotoJudge(concepts=CONCEPTS, directions=8).fit(features, concepts)
    save_model(tmp_path / "own", judge, dtype=torch.float16)
    loaded = load_photo_judge(tmp_path / "own")
    assert_close(loaded(new) @ loaded.prototypes.T, judge(new) @ judge.prototypes.T, atol=5e-3, rtol=0)
    with pytest.raises(MissingAsset, match="judge-photo"):
        load_photo_judge(tmp_path / "elsewhere")


def test_the_one_that_ships_knows_every_name_and_must_not_guide():
    names = {plain_name(name) for name in load_captioned("emoji", split="all", image_size=64).columns["name"]}
    judge = load_photo_judge()
    card = read_config(checkpoints_dir() / PHOTO_JUDGE)
    assert len(judge.prototypes) == len(names) and card["role"] == "judge"
    assert card["metrics"]["left_out_top10"] > 0.8
    for name in (PHOTO_JUDGE, str(checkpoints_dir() / PHOTO_JUDGE)):
        with pytest.raises(BadParameter, match="only measures"):
            load_clip(name)
