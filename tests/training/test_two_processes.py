"""Trainings by one process and by two: steps of text-to-image networks give the same weights."""

import os
import runpy

import pytest
import torch

from t2ilib.paths import repo_root

HERE = repo_root() / "tests" / "training"

DIFFUSION = """
import torch
from test_diffusion_step import DiffusionTraining, draw_diffusion_batch, generator, make_fabric, texts, tiny

torch.manual_seed(0)
features, fabric, stream = texts(), make_fabric(), generator(0, "stream")
training = DiffusionTraining(tiny(), fabric)
for step in range(3):
    x_0 = torch.randn(4, 3, 8, 8, generator=stream)
    batch = draw_diffusion_batch(x_0, torch.arange(4)[:, None], features, stream, rank=fabric.global_rank,
                                 world_size=fabric.world_size)
    training.step(batch, 1e-4)
if fabric.global_rank == 0:
    torch.save((fabric.world_size, training.network.state_dict()), {out!r})
"""

TEXT_GAN = """
import torch
from test_text_gan_step import AdaptiveProbability, TextGanRule, batch, draw_augmentation, training
from t2ilib.training import make_fabric

torch.manual_seed(0)
fabric = make_fabric()
game = training(TextGanRule(r1_every=2), fabric=fabric)
probability = AdaptiveProbability(0.3)
for step in range(3):
    rng = torch.Generator().manual_seed(step)
    augmentation = (draw_augmentation(4, 0.5, rng), draw_augmentation(4, 0.5, rng))
    whole = batch(augmentation=augmentation)
    report = game.step(whole.share(fabric.global_rank, fabric.world_size), 1e-4)
    probability.update(report.on_real)
if fabric.global_rank == 0:
    weights = dict(game.generator.state_dict()) | dict(game.discriminator.state_dict())
    torch.save((fabric.world_size, weights, report.losses, report.on_real, probability.state_dict()), {out!r})
"""


@pytest.fixture
def by_one_and_by_two(run_python, tmp_path, monkeypatch):
    """Return a function that runs scripts one after another, here as one process and then in two.

    A script imports the tests of this folder, and its first process saves a tuple to `{out!r}`, of which the first item
    is the number of processes. Returned is what else each has saved: [by one, by two] of each script.
    """
    monkeypatch.syspath_prepend(str(HERE))

    def run(*sources):
        found = [[] for _ in sources]
        for count in (1, 2):
            script = tmp_path / f"by{count}.py"
            parts = [source.format(out=str(tmp_path / f"{i}by{count}.pt")) for i, source in enumerate(sources)]
            script.write_text("".join(parts))
            if count == 1:
                runpy.run_path(str(script), run_name="__main__")
            else:
                run_python(script, processes=count, PYTHONPATH=os.pathsep.join([str(repo_root()), str(HERE)]))
            for i, both in enumerate(found):
                processes, *saved = torch.load(tmp_path / f"{i}by{count}.pt")
                assert processes == count
                both.append(saved)
        return found

    return run


@pytest.mark.slow
def test_two_processes_train_what_one_does(by_one_and_by_two):
    diffusion, text_gan = by_one_and_by_two(DIFFUSION, TEXT_GAN)
    (one,), (two,) = diffusion
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5)

    one, two = text_gan
    weights, losses, on_real, probability = one
    others, other_losses, other_real, other_probability = two
    assert probability == pytest.approx(other_probability)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=2e-5)
    for name, value in losses.items():
        torch.testing.assert_close(other_losses[name], value, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other_real, on_real, rtol=1e-3, atol=1e-3)
