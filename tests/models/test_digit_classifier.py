import pytest
import torch
from torch.nn import functional as F

from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_digits
from t2ilib.models.digit_classifier import DigitClassifier


@pytest.mark.parametrize("size", [8, 28])
def test_features_are_what_the_head_reads(size):
    net = DigitClassifier(image_size=size, ch=8, feature_dim=12).eval()
    x = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    features = net.features(x)
    assert features.shape == (3, 12) and net(x).shape == (3, 10)
    torch.testing.assert_close(net.head(features), net(x))
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)


def test_it_learns_digits_and_keeps_them(tmp_path):
    train, test = load_digits("digits"), load_digits("digits", split="test")
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DigitClassifier(image_size=8, ch=8, dropout=0.0)
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(120):
            rows = torch.randint(len(train), (64,), generator=rng)
            loss = F.cross_entropy(net(train.batch(rows)), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    x = test.batch(torch.arange(len(test)))
    assert (net(x).argmax(1) == test.labels).double().mean() > 0.9
    again = load_model(DigitClassifier, save_model(tmp_path, net))
    assert torch.equal(again(x), net(x))
