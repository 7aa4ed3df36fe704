"""The leaderboard: pictures are drawn once, drawn on after an interruption, and rows are told apart by their pairs."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from t2ilib.data import CaptionedImages
from t2ilib.encoders.perceptual import LITE0
from t2ilib.errors import BadParameter, RunFailed
from t2ilib.files import write_json
from t2ilib.leaderboard import (
    FREE,
    ORIGINAL,
    Cost,
    Entry,
    PromptSet,
    cost,
    draw_entry,
    measure_cost,
    paired_differences,
    places,
)
from t2ilib.leaderboard.entries import Drawn
from t2ilib.leaderboard.scores import Scorer, resized
from t2ilib.methods import METHODS, Method
from t2ilib.metrics import mean_kernel
from t2ilib.metrics.eyes import Eyes, Reference
from t2ilib.metrics.judging import Judgement, diversity
from t2ilib.options import Option

OPTIONS = (Option("blue", 0, "blue"), Option("device", "auto", "device"))


class Painter:
    """A method that paints one colour and counts what it was asked for."""

    def __init__(self):
        self.asked = []
        self.options = []  # of each call
        self.checkpoints = {}
        self.fails_after = 10**9

    def run(self, prompt, *, num_images, seed, **options):
        if len(self.asked) >= self.fails_after:
            raise KeyboardInterrupt
        prompts = [prompt] if isinstance(prompt, str) else prompt
        self.asked += [(text, seed) for text in prompts]
        self.options.append(options)
        images = [Image.new("RGB", (8, 8), (len(text), seed, options.get("blue", 0))) for text in prompts]
        return images, {"checkpoints": dict(self.checkpoints), "steps_done": 1}


@pytest.fixture
def painter():
    painter = Painter()
    METHODS.add("painter", Method("painter", "Painter", painter.run, options=OPTIONS))
    yield painter
    METHODS.remove("painter")


PROMPTS = ["a", "bb", "c/c:c"]


def test_every_prompt_and_seed_is_drawn_once(painter, tmp_path):
    entry = Entry("Painter", "painter")
    drawn = draw_entry(entry, PROMPTS, seeds=(0, 1), home=tmp_path, chunk=2)
    assert sorted(painter.asked) == sorted((prompt, seed) for prompt in PROMPTS for seed in (0, 1))
    again = draw_entry(entry, PROMPTS, seeds=(0, 1), home=tmp_path)
    assert len(painter.asked) == 6
    pictures = again.of(PROMPTS)
    assert pictures.shape == (6, 3, 8, 8)
    assert torch.equal(pictures, drawn.of(PROMPTS))
    red_and_green = (pictures[:, :2, 0, 0] * 255).round().tolist()
    assert red_and_green == [[1, 0], [2, 0], [5, 0], [1, 1], [2, 1], [5, 1]]


def test_more_prompts_and_seeds_cost_only_themselves(painter, tmp_path):
    entry = Entry("Painter", "painter")
    draw_entry(entry, PROMPTS[:2], seeds=(0,), home=tmp_path)
    draw_entry(entry, PROMPTS, seeds=(0, 1), home=tmp_path)
    assert len(painter.asked) == 6
    draw_entry(Entry("bluer", "painter", {"blue": 9}), PROMPTS[:1], seeds=(0,), home=tmp_path)
    assert len(painter.asked) == 7


def test_an_interruption_loses_one_chunk_at_most(painter, tmp_path):
    painter.fails_after = 4
    with pytest.raises(KeyboardInterrupt):
        draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0, 1), home=tmp_path, chunk=1)
    painter.fails_after = 10**9
    draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0, 1), home=tmp_path, chunk=1)
    assert len(painter.asked) == 6


def test_other_weights_are_drawn_anew(painter, tmp_path, monkeypatch):
    versions = {"emoji-net": "one"}
    monkeypatch.setattr("t2ilib.leaderboard.entries.weights_version", versions.get)
    painter.checkpoints = {"emoji-net": "one"}
    draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path)
    draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path)
    assert len(painter.asked) == 3
    versions["emoji-net"] = painter.checkpoints["emoji-net"] = "two"
    draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path)
    assert len(painter.asked) == 6
    assert len(list(tmp_path.iterdir())) == 2


def test_another_default_is_drawn_anew(painter, tmp_path):
    draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path)
    METHODS.remove("painter")
    METHODS.add("painter", Method("painter", "Painter", painter.run, options=(Option("blue", 7, "blue"), *OPTIONS[1:])))
    draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path)
    assert len(painter.asked) == 6


@pytest.mark.parametrize("prompts, seeds", [([], [0]), (["a"], []), (["a", "a"], [0])])
def test_nothing_to_draw_is_refused(painter, tmp_path, prompts, seeds):
    with pytest.raises(BadParameter, match="need prompts, each once"):
        draw_entry(Entry("Painter", "painter"), prompts, seeds=seeds, home=tmp_path)


def test_places_share_what_cannot_be_told_apart():
    concepts = [f"c{i}" for i in range(40)] * 2
    good = torch.ones(80)
    nearly = good.clone()
    nearly[0] = 0
    bad = torch.zeros(80)
    bad[0] = 1
    scores = {"bad": bad, "good": good, "nearly": nearly}
    assert places(scores, concepts) == {"bad": 3, "good": 1, "nearly": 1}
    found = paired_differences(scores, concepts)
    assert list(found) == [("good", "bad"), ("nearly", "bad"), ("good", "nearly")]
    assert found["good", "bad"].mean == pytest.approx(79 / 80)
    assert found["good", "bad"].is_more
    assert not found["good", "nearly"].is_more


def test_pairs_are_corrected_for_their_number():
    """Of many pairs of equals one would look different by itself."""
    concepts = [f"c{i}" for i in range(6)]
    rows = {"best": torch.ones(6)} | {f"row {i}": torch.zeros(6) for i in range(5)}
    alone = paired_differences({"best": rows["best"], "row 0": rows["row 0"]}, concepts)
    assert alone["best", "row 0"].p == pytest.approx(2 / 64)
    together = paired_differences(rows, concepts)
    assert together["best", "row 0"].p > 0.05
    assert set(places(rows, concepts).values()) == {1}


def test_diversity_of_equal_and_of_orthogonal_pictures():
    same = torch.eye(3)[None].repeat(2, 1, 1)  # two seeds that draw the same three pictures
    found = diversity(same)
    assert found["within"] == pytest.approx(0)
    assert found["between"] == pytest.approx(1)
    assert "within" not in diversity(torch.eye(3)[None])


def test_resized_keeps_what_fits():
    pictures = torch.rand(2, 3, 16, 16)
    assert resized(pictures, 0) is pictures
    assert resized(pictures, 16) is pictures
    assert resized(pictures, 8).shape == (2, 3, 8, 8)


class FakeJudgement:
    """Three concepts of one split; `data` says nothing else."""

    names = ["a", "b", "c"]

    def concepts(self, split, count=0):
        return self.names[:count or None]


def test_prompts_are_the_same_for_everybody():
    prompts = PromptSet.of(FakeJudgement(), splits=("train",), concepts=2, free=9)
    assert prompts.concepts == {"train": ["a", "b"]}
    assert prompts.free[:7] == list(ORIGINAL)
    assert len(set(prompts.texts)) == 11
    everything = PromptSet.of(FakeJudgement(), splits=("train",), concepts=0, free=47)
    assert everything.free == [*ORIGINAL, *FREE]
    with pytest.raises(BadParameter, match="free from 0 to 47"):
        PromptSet.of(FakeJudgement(), splits=("train",), concepts=0, free=48)


def test_a_failed_measurement_says_why():
    with pytest.raises(RunFailed, match="no method called 'no_such_method'|no_such_method"):
        measure_cost(Entry("none", "no_such_method"))


def test_scorer_refuses_another_number_of_pictures():
    scorer = Scorer.__new__(Scorer)
    with pytest.raises(BadParameter, match="2 seeds of 2 names are 4 pictures, got 3"):
        scorer.score(torch.zeros(3, 3, 8, 8), ["a", "b"], seeds=2)


class MeanColourJudge:
    """Unit features of pictures are their mean red and green; each name has another direction."""

    def encode_text(self, texts):
        angles = torch.linspace(0.0, 1.4, len(texts))
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def encode_image(self, x):
        return F.normalize(x.mean((2, 3))[:, :2] + 1e-6, dim=-1)


def test_seeds_are_compared_one_at_a_time():
    """KID of one seed's pictures and of the same pictures three times is the same."""
    rng = torch.Generator().manual_seed(0)
    names = ["red heart", "fire", "black cat"]
    images = (torch.rand(12, 3, 8, 8, generator=rng) * 255).byte()
    columns = {"name": names * 4, "family": names * 4, "split": ["train"] * 12}
    scorer = Scorer(Judgement(MeanColourJudge(), CaptionedImages(images, names * 4, columns)))
    pictures = torch.rand(3, 3, 8, 8, generator=rng)
    once = scorer.score(pictures, names, seeds=1).row
    thrice = scorer.score(pictures.repeat(3, 1, 1, 1), names, seeds=3).row
    assert thrice["kid_judge"] == pytest.approx(once["kid_judge"])
    assert thrice["n"] == 9
    assert thrice["within"] == pytest.approx(0, abs=1e-6)


class MeanColours:
    """Features of pictures: the means of their channels."""

    def features(self, x):
        return x.mean((2, 3))


class NamesByColour:
    """A second judge: each concept has a colour."""

    prototypes = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))

    def __call__(self, features):
        return features


def test_the_eyes_are_told_which_seed_drew_a_picture():
    rng = torch.Generator().manual_seed(0)
    known = torch.rand(12, 3, generator=rng)
    eyes = Eyes(MeanColours(), Reference(known, torch.full((12,), 0.3), mean_kernel(known)), NamesByColour())
    names = [f"thing {i}" for i in range(6)]
    images = (torch.rand(12, 3, 8, 8, generator=rng) * 255).byte()
    columns = {"name": names * 2, "family": names * 2, "split": ["train"] * 12}
    scorer = Scorer(Judgement(MeanColourJudge(), CaptionedImages(images, names * 2, columns)), eyes)
    pictures = torch.rand(6, 3, 8, 8, generator=rng)
    once = scorer.score(pictures, names, seeds=1).row
    thrice = scorer.score(pictures.repeat(3, 1, 1, 1), names, seeds=3).row
    for name in ("kid", "kid_low", "kid_high", "precision", "precision_low", "precision_high", "recall"):
        assert thrice[name] == pytest.approx(once[name])


def test_the_second_judge_is_asked_beside_the_first():
    names = [f"thing {i}" for i in range(6)]
    columns = {"name": names, "family": names, "split": ["train"] * 6}
    known = NamesByColour.prototypes
    colours = NamesByColour.prototypes[:, :, None, None].expand(-1, -1, 8, 8)
    data = CaptionedImages((colours * 255).byte(), names, columns)
    eyes = Eyes(MeanColours(), Reference(known, torch.full((6,), 0.3), mean_kernel(known)), NamesByColour())
    scorer = Scorer(Judgement(MeanColourJudge(), data), eyes)
    right = scorer.score(colours, names, seeds=1)
    assert right.row["photo1"] == 1 and right.photo_hits.tolist() == [1] * 6
    assert scorer.score(colours.roll(3, 0), names, seeds=1).row["photo1"] == 0
    assert Scorer(scorer.judgement).score(colours, names, seeds=1).photo_hits is None
    with pytest.raises(BadParameter, match="no judge"):
        Eyes(MeanColours(), eyes.reference).name_ranks(known, torch.arange(6))


def test_a_row_says_what_a_relative_of_the_eyes_did_for_it(painter, tmp_path):
    drawn = draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path / "pictures")
    assert drawn.lite0 == ""
    mine = tmp_path / "mine"
    mine.mkdir()
    write_json(mine / "config.json", {"trained_with": LITE0})
    for names, said in ((["emoji-judge"], ""), (["emoji-gigagan", "emoji-clip"], "trained"), ([str(mine)], "trained"),
                        (["emoji-gigagan", "emoji-clip-photo"], "guided and trained")):
        assert Drawn(drawn.pictures, drawn.card | {"checkpoints": dict.fromkeys(names, "0")}).lite0 == said


def test_what_the_machine_is_told_reaches_the_method_and_is_not_part_of_the_pictures(painter, tmp_path):
    plain = draw_entry(Entry("Painter", "painter"), PROMPTS, seeds=(0,), home=tmp_path)
    told = Entry("Painter", "painter", machine={"device": "cpu"})
    assert draw_entry(told, PROMPTS, seeds=(0,), home=tmp_path).card == plain.card
    assert len(list(tmp_path.iterdir())) == 1
    draw_entry(told, PROMPTS, seeds=(1,), home=tmp_path)
    assert painter.options[-1]["device"] == "cpu"


def test_cost_is_measured_with_as_many_threads_as_this_process_has(painter, monkeypatch):
    jobs = []

    def run(command, **_):
        jobs.append(json.loads(command[-1]))
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(asdict(Cost(1.0, 2.0, 3.0, 4, 5, 6))))

    before = torch.get_num_threads()
    monkeypatch.setattr(cost.subprocess, "run", run)
    monkeypatch.setattr(cost.torch, "get_num_threads", lambda: before + 1)
    assert measure_cost(Entry("Painter", "painter")).seconds == 1.0
    monkeypatch.undo()
    assert jobs[0]["threads"] == before + 1
    try:
        cost._measured(**jobs[0])
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_cost_is_measured_in_a_process_of_its_own():
    job = json.dumps({"method": "minimagen", "options": {"candidates": 1, "steps": 1}, "prompt": "a dot",
                      "threads": 1})
    ended = subprocess.run([sys.executable, "-m", "t2ilib.leaderboard.cost", job], capture_output=True, text=True,
                           check=True)
    cost = json.loads(ended.stdout.splitlines()[-1])
    assert cost["seconds"] < cost["first_seconds"]
    assert cost["parameters"] > 5_000_000
    assert cost["bytes"] > 5_000_000
    assert cost["memory_mib"] > 100
