import math

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.guidance.prompts import Prompt, main_text, parse_prompt, parse_prompts, prompts_of_kind
from t2ilib.guidance.targets import embed_prompts, prompt_loss, spherical_distance

INF = math.inf


@pytest.mark.parametrize(("spec", "text", "weight", "stop"), [
    ("a red heart", "a red heart", 1, -INF),
    ("a red heart:0.5", "a red heart", 0.5, -INF),
    ("a red heart:-1", "a red heart", -1, -INF),
    ("a red heart:2:0.7", "a red heart", 2, 0.7),
    ("a red heart : 2 : -inf", "a red heart", 2, -INF),
    ("Star Wars: a poster", "Star Wars: a poster", 1, -INF),
    ("Star Wars: a poster:.5", "Star Wars: a poster", 0.5, -INF),
    ("a:b:c:1e-1:2", "a:b:c", 0.1, 2),
    ("1:2:3", "1:2", 3, -INF),
    ("1 :2:3", "1", 2, 3),
    ("a clock at 12:30", "a clock at 12:30", 1, -INF),
    ("a clock at 12:30:0.5", "a clock at 12:30", 0.5, -INF),
    ("12:30", "12:30", 1, -INF),
    ("area 51:0.5", "area 51", 0.5, -INF),
    (r"score 3\:2", "score 3:2", 1, -INF),
    (r"score 3\:2:4", "score 3:2", 4, -INF),
    ("to:infinity", "to:infinity", 1, -INF),
    ("naan: or nan:nan", "naan: or nan:nan", 1, -INF),
    ("ends with a colon:", "ends with a colon:", 1, -INF),
])
def test_parse_prompt_peels_only_numbers(spec, text, weight, stop):
    assert parse_prompt(spec) == Prompt(text, weight, stop)


@pytest.mark.parametrize(("spec", "text", "weight"), [
    ("a castle, 16:9", "a castle, 16:9", 1),
    ("Psalm 23:1", "Psalm 23:1", 1),
    ("Psalm 23:99:0.5", "Psalm 23:99", 0.5),
    ("Blade Runner: 2049", "Blade Runner: 2049", 1),
    ("http://example.org:8080", "http://example.org:8080", 1),
    ("a heart:-1e9", "a heart:-1e9", 1),
    ("Area: 51", "Area", 51),
    ("apollo 11 :2", "apollo 11", 2),
    ("apollo 11:2.0", "apollo 11", 2),
    ("a heart:2:1", "a heart", 2),
])
def test_numbers_that_belong_to_the_words(spec, text, weight, recwarn):
    prompt = parse_prompt(spec)
    assert (prompt.text, prompt.weight) == (text, weight)
    surprising = {"a castle, 16:9", "Psalm 23:1", "Blade Runner: 2049", "http://example.org:8080", "a heart:-1e9",
                  "Area: 51"}
    assert [str(warning.message).split("'")[1] for warning in recwarn] == ([spec] if spec in surprising else [])


def test_seeds_of_noise_are_no_words():
    assert [(p.text, p.weight) for p in prompts_of_kind("noise", ["7:2", "8080:-1", 5])] == [
        ("7", 2), ("8080", -1), ("5", 1)]


def test_long_runs_of_blanks_and_colons_are_read_at_once():
    for spec in (":" + " " * 200_000 + ":x", ":" * 200_000 + "x", "x" + ":1" * 100_000, "a" + " " * 200_000 + ":0.5"):
        assert parse_prompt(spec).text


@pytest.mark.parametrize("spec", ["", "  ", ":1", "x:-inf", "a | | b", "a:0 | b:0", 3])
def test_bad_prompts_are_refused(spec):
    with pytest.raises(BadParameter):
        parse_prompts(spec)


def test_several_prompts():
    found = parse_prompts(r"a castle | oil painting:0.5 | x\|y:-1:-0.5")
    assert found == [Prompt("a castle"), Prompt("oil painting", 0.5), Prompt("x|y", -1, -0.5)]
    assert parse_prompts([Prompt("a", 2), "b:3"]) == [Prompt("a", 2), Prompt("b", 3)]
    assert main_text(found) == "a castle, oil painting"
    assert main_text(parse_prompts("a:1|b:2")) == "b, a"


def pair(cosine, dim=8):
    a, b = torch.zeros(2, dim, dtype=torch.float64)
    a[0] = 1
    b[0], b[1] = cosine, math.sqrt(1 - cosine**2)
    return a, b


@pytest.mark.parametrize(("cosine", "loss"), [(0.15, 1.0085), (0.20, 0.9377), (0.25, 0.8687), (0.30, 0.8015),
                                              (0.35, 0.7360), (0.40, 0.6720), (0.50, 0.5483),
                                              (0.0, math.pi**2 / 8), (-1.0, math.pi**2 / 2), (1.0, 0.0)])
def test_spherical_distance_is_half_the_squared_angle(cosine, loss):
    distance = spherical_distance(*pair(cosine)).item()
    assert distance == pytest.approx(loss, abs=5e-5)
    assert distance == pytest.approx(math.acos(cosine) ** 2 / 2, abs=1e-14)


def test_spherical_distance_equals_the_arcsine_form_with_its_gradient():
    g = torch.Generator().manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 50, 16, generator=g, dtype=torch.float64), dim=-1)
    a.requires_grad_()
    classic = (a - b).norm(dim=-1).div(2).arcsin().square().mul(2)
    ours = spherical_distance(a, b)
    assert_close(ours, classic, rtol=1e-13, atol=0)
    # the two differ only in how they continue off the sphere: compare along it
    tangent = torch.nn.functional.normalize(torch.randn(50, 16, generator=g, dtype=torch.float64), dim=-1)
    tangent = tangent - (tangent * a.detach()).sum(-1, keepdim=True) * a.detach()
    slopes = [(torch.autograd.grad(f.sum(), a, retain_graph=True)[0] * tangent).sum(-1) for f in (ours, classic)]
    assert_close(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_at_the_antipode_and_zero_at_coincidence(dtype):
    a = torch.eye(4, dtype=dtype)[:1].requires_grad_()
    spherical_distance(a, -a.detach()).sum().backward()
    assert a.grad.isfinite().all()
    a.grad = None
    spherical_distance(a, a.detach()).sum().backward()
    assert (a.grad == 0).all()
    near = torch.tensor([[-1.0, 1e-6, 0, 0]], dtype=dtype).requires_grad_()
    spherical_distance(near, a.detach()).sum().backward()
    assert near.grad.isfinite().all() and near.grad.norm() == pytest.approx(math.pi, rel=1e-3)


def make(prompts, dim=6):
    class Texts:
        def encode_text(self, texts):
            rows = [torch.randn(dim, generator=torch.Generator().manual_seed(len(t))) for t in texts]
            return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    return embed_prompts(Texts(), [parse_prompts(p) for p in prompts])


def test_prompt_loss_equals_the_formula_with_weights_and_signs():
    targets = make(["a:2|bbb:-0.5", "cc"])
    e = torch.nn.functional.normalize(torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    loss = prompt_loss(e, targets)
    for i, weights in enumerate([(2, -0.5), (1,)]):
        expected = 0.0
        for p, w in enumerate(weights):
            theta = torch.arccos((e[i] * targets.embedding[i, p]).sum(-1))
            expected = expected + abs(w) * (theta.square() / 2 * math.copysign(1, w)).mean()
        assert_close(loss[i], expected, rtol=1e-5, atol=1e-6)


def test_stop_keeps_the_value_and_drops_the_gradient_below_it():
    targets = make(["a:1:0.9"])
    t = targets.embedding[0, 0]
    other = torch.nn.functional.normalize(torch.eye(6)[0] - t[0] * t, dim=0)
    angles = torch.tensor([0.3, 1.0, 2.0])  # losses .045 and .5 lie below the stop of .9, and 2.0 above
    e = (angles.cos()[:, None] * t + angles.sin()[:, None] * other)[None].requires_grad_()
    loss = prompt_loss(e, targets)
    loss.backward()
    assert_close(loss[0], (angles.square() / 2).mean(), rtol=1e-5, atol=0)
    assert (e.grad[0, :2] == 0).all() and e.grad[0, 2].norm() > 0


def test_a_negative_weight_pushes_away():
    plus, minus = make(["abc"]), make(["abc:-1"])
    e = torch.nn.functional.normalize(torch.randn(1, 3, 6), dim=-1).requires_grad_()
    (gp,) = torch.autograd.grad(prompt_loss(e, plus).sum(), e)
    (gm,) = torch.autograd.grad(prompt_loss(e, minus).sum(), e)
    assert_close(gp, -gm)


def test_a_story_shares_the_run_and_cross_fades_to_a_sum_of_one():
    story = parse_prompts(r"a seed:2 ^ a flower | ink ^ an \^ arrow", cross_fade=0.5)
    assert [(p.text, p.weight) for p in story] == [("a seed", 2), ("a flower", 1), ("ink", 1), ("an ^ arrow", 1)]
    assert [p.span for p in story] == [(0, 1 / 3), (1 / 3, 2 / 3), (1 / 3, 2 / 3), (2 / 3, 1)]
    first, second, _, last = story
    assert [first.strength(t) for t in (0, 0.2, 1 / 3, 0.5)] == pytest.approx([1, 1, 0.5, 0])
    assert [last.strength(t) for t in (0.5, 2 / 3, 0.9, 1)] == pytest.approx([0, 0.5, 1, 1])
    for t in torch.linspace(0, 1, 50).tolist():
        assert first.strength(t) + second.strength(t) + last.strength(t) == pytest.approx(1)
    hard = parse_prompts("a ^ b")
    assert [[p.strength(t) for p in hard] for t in (0, 0.49, 0.5, 1)] == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert [main_text(story, t) for t in (0, 0.5, 1)] == ["a seed", "a flower, ink", "an ^ arrow"]
    with pytest.raises(BadParameter, match="empty part"):
        parse_prompts("a ^ ^ b")


def test_a_prompt_for_a_region_names_the_picture_only_where_no_other_does():
    star = Prompt("a star", region=(0, 0, 0.5, 0.5))
    assert main_text([star, Prompt("the sky"), Prompt("7", kind="noise")]) == "the sky"
    assert main_text([star]) == "a star"


class Looks:
    width = 6

    def encode_text(self, texts, *, long=None):
        row = torch.eye(self.width)[0 if long is None else 1]
        return row.expand(len(texts), -1)


def test_noise_vectors_and_images_become_unit_targets():
    vector = Prompt("v", 0.5, kind="vector", vector=(0, 3, 0, 0, 0, 4))
    group = [Prompt("7", kind="noise"), vector, Prompt("a.png", 2, kind="image")]
    views = torch.eye(6)[2:5] * 3
    targets = embed_prompts(Looks(), [group, [Prompt("x")]], embed_image=lambda prompt: views)
    assert targets.embedding.shape == (2, 5, 6)
    assert_close(targets.embedding.norm(dim=-1), torch.ones(2, 5))
    assert_close(targets.embedding[0, 1], torch.tensor([0, 0.6, 0, 0, 0, 0.8]))
    assert_close(targets.embedding[0, 2:], views / 3)
    assert_close(targets.weight, torch.tensor([[1, 0.5, 2 / 3, 2 / 3, 2 / 3], [1, 0, 0, 0, 0]]))
    again = embed_prompts(Looks(), [[Prompt("7", 3, kind="noise")]])
    assert torch.equal(again.embedding[0, 0], targets.embedding[0, 0])
    assert embed_prompts(Looks(), [[Prompt("x")]], long="windows").embedding[0, 0, 1] == 1
    with pytest.raises(BadParameter, match="2 numbers, this CLIP's space has 6"):
        embed_prompts(Looks(), [[Prompt("v", kind="vector", vector=(1, 2))]])
    with pytest.raises(BadParameter, match="is a seed"):
        embed_prompts(Looks(), [[Prompt("x", kind="noise")]])


def test_targets_follow_the_run():
    targets = embed_prompts(Looks(), [parse_prompts("a:2 ^ b"), parse_prompts("c")])
    assert targets.at(0).weight.tolist() == [[2, 0], [1, 0]] and targets.at(0.5).weight.tolist() == [[0, 1], [1, 0]]
    assert targets.select([1]).at(0.9).weight.tolist() == [[1, 0]]
    assert targets.select(slice(1, 2)) is not None and embed_prompts(Looks(), [[Prompt("a")]]).at(0.3).weight == 1
