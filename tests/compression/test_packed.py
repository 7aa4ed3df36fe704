"""Files of compressed weights: what is read is what was written, bit for bit, or it is refused."""

import hashlib
import json
import random
import zlib

import pytest
import torch
from torch import nn

from t2ilib.checkpoint import configurable
from t2ilib.compression import compressible, load_packed, pack, packed_sizes, read_packed, save_packed, share
from t2ilib.compression.container import MAGIC, SIZES, seal
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, T2IError


@configurable
class Net(nn.Module):
    def __init__(self, *, width: int = 16, rows: int = 30):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.table = nn.Embedding(rows, width)
        self.register_buffer("codes", torch.randint(0, 500, (17, 8, 8), dtype=torch.int16))
        self.register_buffer("empty", torch.zeros(0, 3))


def compressed(sparsity=0.6, bits=4):
    torch.manual_seed(0)
    net = Net()
    tensors = {}
    for name in compressible(net.state_dict()):
        weight = net.state_dict()[name]
        mask = weight.abs() > weight.abs().flatten().quantile(sparsity)
        tensors[name] = share(weight, bits, mask)
    return net, tensors


@pytest.fixture
def path(tmp_path):
    net, tensors = compressed()
    return save_packed(tmp_path / "net.packed", net, tensors, note="a test")


@pytest.mark.parametrize("sparsity, bits", [(0.0, 8), (0.6, 4), (0.999, 1), (0.5, 2)])
def test_round_trip_is_exact(tmp_path, sparsity, bits):
    net, tensors = compressed(sparsity, bits)
    path = save_packed(tmp_path / "net.packed", net, tensors)
    assert set(tensors) == {"conv.weight", "table.weight"}
    again = load_packed(Net, path).state_dict()
    for name, tensor in net.state_dict().items():
        if name in tensors:
            expected = tensors[name].dense()
        else:
            expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(again[name], expected), name
        assert again[name].dtype == tensor.dtype


def test_fillers_bridge_long_gaps(tmp_path):
    net = Net(width=48, rows=300)
    mask = torch.zeros(300, 48, dtype=torch.bool)
    for place in (0, 256, 512, 513, 1281, 14_399):
        mask.view(-1)[place] = True
    tensors = {"table.weight": share(net.table.weight, 2, mask)}
    path = save_packed(tmp_path / "net.packed", net, tensors)
    assert torch.equal(load_packed(Net, path).table.weight, tensors["table.weight"].dense())


def test_every_byte_is_counted(path):
    sizes = packed_sizes(path)
    assert sizes.total == path.stat().st_size and min(sizes) > 0
    assert sizes.values == 2 * 2 * 16
    assert sizes.raw == 2 * (16 + 4 * 16) + 8  # bias, four vectors of the norm, one counter of eight bytes


def test_the_header_keeps_the_card(path):
    _, header = read_packed(path)
    assert header["card"] == {"note": "a test"} and header["kwargs"] == {"width": 16, "rows": 30}


def test_bit_flips_are_refused(path, tmp_path):
    content = path.read_bytes()
    rng = random.Random(0)
    damaged = tmp_path / "damaged.packed"
    for _ in range(1000):
        place = rng.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        damaged.write_bytes(flipped)
        with pytest.raises(CheckpointMismatch):
            read_packed(damaged)


def test_truncated_files_are_refused(path, tmp_path):
    content = path.read_bytes()
    cut = tmp_path / "cut.packed"
    for length in [0, 7, 8, 15, 16, 40, *range(50, len(content), 41), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointMismatch):
            read_packed(cut)
    with pytest.raises(MissingAsset, match="save_packed"):
        read_packed(tmp_path / "none")


def with_right_hash(content):
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


def test_hostile_bytes_with_a_right_hash_never_crash_the_reader(path, tmp_path):
    """Who can write a file can hash it, too: it may then hold other weights, but it must not break the reader."""
    content = path.read_bytes()
    rng = random.Random(1)
    hostile = tmp_path / "hostile.packed"
    refused = 0
    for _ in range(1000):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 4))):
            place = rng.randrange(8 * (len(content) - 32))
            changed[place // 8] ^= 1 << place % 8
        hostile.write_bytes(with_right_hash(bytes(changed)))
        try:
            state, _ = read_packed(hostile)
            assert all(tensor.isfinite().all() for name, tensor in state.items() if name in ("conv.weight",))
        except T2IError:
            refused += 1
    assert refused > 300


def header_of(content):
    packed, _ = SIZES.unpack_from(content, len(MAGIC))
    begin = len(MAGIC) + SIZES.size
    return json.loads(zlib.decompress(content[begin:begin + packed])), content[begin + packed:-32]


def changes():
    def shape(header):
        header["tensors"][0]["shape"] = [2**20, 2**20]

    def count(header):
        next(t for t in header["tensors"] if t["kind"] == "shared")["count"] = 2**26

    def levels(header):
        next(t for t in header["tensors"] if t["kind"] == "shared")["levels"] = 10**6

    def negative(header):
        next(t for t in header["tensors"] if t["kind"] == "shared")["bytes"] = [-5, 4]

    def twice(header):
        header["tensors"].append(dict(header["tensors"][0]))

    def kind(header):
        header["tensors"][0]["kind"] = "pickle"

    def no_list(header):
        header["tensors"] = {}

    def truth(header):
        header["tensors"][0]["shape"] = [True, 3]

    def dtype(header):
        next(t for t in header["tensors"] if t["kind"] == "raw")["dtype"] = "object"

    return [shape, count, levels, negative, twice, kind, no_list, truth, dtype]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_hostile_headers_are_refused_before_anything_is_allocated(path, tmp_path, change):
    header, body = header_of(path.read_bytes())
    change(header)
    hostile = tmp_path / "hostile.packed"
    hostile.write_bytes(seal(json.dumps(header), body))
    with pytest.raises(CheckpointMismatch):
        read_packed(hostile)


def test_a_header_that_unpacks_to_more_than_it_says(path, tmp_path):
    _, body = header_of(path.read_bytes())
    bomb = zlib.compress(bytes(2**26), 9)
    content = MAGIC + SIZES.pack(len(bomb), 1000) + bomb + body
    (tmp_path / "bomb").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(CheckpointMismatch, match="another length"):
        read_packed(tmp_path / "bomb")


def test_bad_calls(path):
    net, tensors = compressed()
    state = net.state_dict()
    with pytest.raises(CheckpointMismatch, match="not a Linear"):
        load_packed(nn.Linear, path)
    with pytest.raises(BadParameter, match="no such tensors"):
        pack(state, {"other": tensors["conv.weight"]}, kind="Net", kwargs={})
    with pytest.raises(BadParameter, match="another"):
        pack(state, {"conv.weight": tensors["table.weight"]}, kind="Net", kwargs={})
    with pytest.raises(BadParameter, match="JSON"):
        pack(state, tensors, kind="Net", kwargs={}, card=object())
    with pytest.raises(BadParameter, match="too large"):
        pack({"b": torch.full((3,), 1e6)}, {}, kind="Net", kwargs={})
