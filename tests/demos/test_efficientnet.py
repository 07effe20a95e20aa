"""EfficientNet-Lite0 as it was published, and its weights."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import fxlrp
from fxlrp.demos import efficientnet, photographs


def test_the_network_is_the_published_one():
    """4 652 008 parameters; halved at the stem and four stages, and nowhere else."""
    model = efficientnet.make_efficientnet()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 49
    blocks = [m for m in model if isinstance(m, efficientnet.Block)]
    assert sum(block.residual for block in blocks) == 9
    sides, x = [], torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for layer in model[:-4]:
            x = layer(x)
            sides.append(x.shape[-1])
    assert sorted(set(sides), reverse=True) == [65, 32, 16, 8, 4, 2]  # 65: padded
    assert x.shape == (1, 1280, 2, 2)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_convolutions_are_padded_as_in_tensorflow(size, stride):
    """Padding in all: ``(ceil(n/s) - 1) s + k - n``, the smaller half in front."""
    *pads, convolution, norm = efficientnet.convolve(2, 3, size, stride)
    x = torch.rand(1, 2, 8, 8)
    around = max((-(-8 // stride) - 1) * stride + size - 8, 0)
    padded = F.pad(x, (around // 2, around - around // 2) * 2)
    expected = F.conv2d(padded, convolution.weight, stride=stride)
    torch.testing.assert_close(nn.Sequential(*pads, convolution)(x), expected)
    assert norm.eps == 1e-3


def make_package(folder, monkeypatch, state):
    """A package of weights, and its checksum."""
    path = folder / efficientnet.FILE
    path.parent.mkdir()
    torch.save(state, path)
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: SimpleNamespace(origin=str(folder / "__init__.py")))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_are_taken_in_their_order(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = efficientnet.make_efficientnet()
    state = {f"other.{i}": value for i, value in enumerate(model.state_dict().values())}
    monkeypatch.setattr(efficientnet, "SHA256", make_package(tmp_path, monkeypatch, state))
    found = efficientnet.load_efficientnet()
    assert not any(module.training for module in found.modules())
    for one, two in zip(model.state_dict().values(), found.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_another_file_is_refused(tmp_path, monkeypatch):
    make_package(tmp_path, monkeypatch, {})
    with pytest.raises(fxlrp.FxlrpError, match=r"is not the file of version 0\.1\.0: install"):
        efficientnet.load_efficientnet()
    (tmp_path / efficientnet.FILE).unlink()
    with pytest.raises(fxlrp.FxlrpError, match=r"is not the file of version 0\.1\.0"):
        efficientnet.load_efficientnet()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(fxlrp.FxlrpError, match=r'no_such_package, which is not installed: pip install "fxlrp\[demo\]"'):
        efficientnet.load_efficientnet()


@pytest.mark.slow
def test_the_trained_network_sees_a_palace_and_a_daisy():
    with torch.no_grad():
        found = efficientnet.load_efficientnet()(photographs.load_photographs()).softmax(1).max(1)
    assert [photographs.CLASSES[int(k)] for k in found.indices] == ["palace", "daisy"]
    torch.testing.assert_close(found.values, torch.tensor([0.301, 0.228]), rtol=0, atol=5e-3)
