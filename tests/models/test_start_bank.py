import pytest
import torch

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter
from t2ilib.models.start_bank import StartBank
from t2ilib.runtime import generator


def make(drawings=6, names=3, codes=11):
    rng = generator(0, "bank")
    return StartBank.build(torch.randint(codes, (drawings, 4, 4), generator=rng), torch.arange(drawings) % names,
                           torch.randn(names, 5, generator=rng), torch.randn(codes, 2, generator=rng))


def test_the_drawings_of_the_closest_name_come_first_and_keep_their_order():
    bank = make()
    assert bank.nearest(bank.text[1] * 7, 2).tolist() == [1, 4]
    rows = bank.nearest(bank.text[2], 6)
    assert rows[:2].tolist() == [2, 5] and sorted(rows.tolist()) == list(range(6))


def test_more_than_there_are_repeat():
    bank = make()
    assert bank.nearest(bank.text[0], 8).tolist()[6:] == bank.nearest(bank.text[0], 2).tolist()


def test_drawings_of_so_many_names_repeat():
    bank = make()
    assert bank.nearest(bank.text[1], 5, names=1).tolist() == [1, 4, 1, 4, 1]
    assert bank.nearest(bank.text[1], 6, names=3).tolist() == bank.nearest(bank.text[1], 6).tolist()


def test_the_best_similarity_is_that_of_the_closest_name():
    bank = make()
    assert bank.best_similarity(bank.text[1] * 7) == pytest.approx(1)
    other = torch.randn(5, generator=generator(1, "text"))
    assert bank.best_similarity(other) == pytest.approx(torch.cosine_similarity(bank.text, other[None]).max().item())


def test_latents_are_the_rows_of_the_codebook():
    bank = make()
    z = bank.latents(torch.tensor([3, 0]))
    assert z.shape == (2, 2, 4, 4)
    torch.testing.assert_close(z[1, :, 2, 3], bank.codebook[bank.grids[0, 2, 3].long()])


def test_saved_and_loaded_it_is_the_same(tmp_path):
    bank = make()
    save_model(tmp_path, bank, dtype=torch.float16)
    again = load_model(StartBank, tmp_path)
    assert torch.equal(again.grids, bank.grids) and torch.equal(again.owner, bank.owner)
    torch.testing.assert_close(again.text, bank.text, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("change", [dict(owner=torch.tensor([0, 3])), dict(owner=torch.tensor([0])),
                                    dict(grids=torch.full((2, 4, 4), 11))])
def test_what_does_not_fit_is_refused(change):
    parts = dict(grids=torch.zeros(2, 4, 4, dtype=torch.long), owner=torch.tensor([0, 1]), text=torch.ones(3, 5),
                 codebook=torch.ones(11, 2)) | change
    with pytest.raises(BadParameter, match="one data set"):
        StartBank.build(**parts)
