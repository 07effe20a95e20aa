"""The steps of random graphs: functions of any two values, whatever their shapes and types."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTH = 3
IMAGE = (1, 2, 4, 4)
LARGEST = 72
"""Entries that a value may have."""


class Parameters(nn.Module):
    """What steps take besides values; seeded."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=g) / 2)

        self.weight, self.bias = drawn(WIDTH, WIDTH), drawn(WIDTH)
        self.table = drawn(5, WIDTH)
        self.kernel1, self.kernel2, self.depthwise = drawn(2, 2, 3), drawn(2, 2, 3, 3), drawn(2, 1, 2, 2)
        self.channels = drawn(2)
        self.register_buffer("mean", torch.tensor([0.3, -0.2], dtype=torch.float64))
        self.register_buffer("variance", torch.tensor([0.5, 2.0], dtype=torch.float64))
        self.register_buffer("signs", torch.tensor([1, -1, 2]))
        self.register_buffer("levels", torch.tensor([0, 1, 200], dtype=torch.uint8))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("causal", torch.ones(4, 4).tril().bool())

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of the table: by an embedding, or by an index."""
        return F.embedding(ids, self.table) if ids.ndim > 1 else self.table[ids]

    def real(self, a: Tensor) -> Tensor:
        """A real floating value: ids are looked up, complex numbers are pairs."""
        if a.is_complex():
            # torch's gradient of this view fails for a part of a tensor starting at an odd place; a product is whole
            return torch.view_as_real(a) * 1.0
        return a if a.is_floating_point() else self.lookup(a)


P = Parameters
Step = Callable[..., Tensor]
"""From the parameters and one or two values to another."""


def resized(a: Tensor, *shape: int) -> Tensor:
    """The entries of a value in another shape, repeated or cut."""
    if tuple(a.shape) == shape:
        return a
    flat, n = a.reshape(-1), prod(shape)
    if flat.numel() < n:
        flat = flat.repeat(-(-n // flat.numel()))
    return flat[:n].reshape(shape)


def like(b: Tensor, a: Tensor) -> Tensor:
    """``b`` with the shape and type of ``a``."""
    return resized(b, *a.shape).to(a.dtype)


def fit(a: Tensor, b: Tensor) -> Tensor:
    """``b``, or its mean where the two shapes do not broadcast."""
    fits = all(n == m or 1 in (n, m) for n, m in zip(reversed(a.shape), reversed(b.shape), strict=False))
    return b if fits else b.mean()


def rows(a: Tensor) -> Tensor:
    """A matrix of three columns."""
    n = max(1, min(4, a.numel() // WIDTH))
    return a if a.ndim == 2 and a.shape[1] == WIDTH else resized(a, n, WIDTH)


def some(a: Tensor) -> Tensor:
    """At least one dimension."""
    return a if a.ndim else a.reshape(1)


def flat(a: Tensor) -> Tensor:
    return a if a.ndim == 1 else a.reshape(-1)


def image(a: Tensor) -> Tensor:
    return resized(a, *IMAGE)


def heads(a: Tensor) -> Tensor:
    """Batch, heads, four tokens, two features."""
    return resized(a, 1, 2, 4, 2)


def line(a: Tensor) -> Tensor:
    """Batch, channels, five positions."""
    return resized(a, 2, 2, 5)


def wide(a: Tensor) -> Tensor:
    """At least two entries in the last dimension."""
    return a if a.ndim and a.shape[-1] > 1 else resized(a, WIDTH)


def softmax_by_hand(a: Tensor) -> Tensor:
    e = (a - a.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def norm_by_hand(a: Tensor) -> Tensor:
    x = a - a.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + 0.1).sqrt()


def attention_by_hand(p: P, a: Tensor, b: Tensor) -> Tensor:
    q, k = heads(a), like(heads(b), heads(a))
    scores = (q @ k.transpose(-2, -1) / 2).masked_fill(~p.causal, -torch.inf)
    return scores.softmax(-1) @ k


def written_slice(p: P, a: Tensor, b: Tensor) -> Tensor:
    x = rows(a).clone()
    x[:, 1:] = like(b, x[:, 1:]) * 2
    return x


def written_row(p: P, a: Tensor, b: Tensor) -> Tensor:
    x = rows(a).clone()
    x[0].mul_(like(b, x[0]))
    return x


def written_view(p: P, a: Tensor) -> Tensor:
    x = rows(a) * 1.0
    x.t()[1:].add_(1)
    return x.relu_() + x[:1]


def written_buffer(p: P, a: Tensor, b: Tensor) -> Tensor:
    x = torch.zeros(2, *a.shape, dtype=a.dtype)
    x[0], x[1] = a, like(b, a).tanh()
    return x.sum(0)


def written_index(p: P, a: Tensor, b: Tensor) -> Tensor:
    x = flat(a).clone()
    x[torch.tensor([0, 0])] = like(b, x)[:1].expand(2) / 2
    return x.view_as(a)


def written_mask(p: P, a: Tensor) -> Tensor:
    a = some(a)  # torch.export takes a mask without dimensions for a number
    x = a.clone()
    x[a > 0.5] = 0.25
    return x


def gru_cell(p: P, a: Tensor, b: Tensor) -> Tensor:
    x, h = rows(a), like(b, rows(a))
    z = (x @ w(p, a) + h).sigmoid()
    return (1 - z) * h + z * (x - h).tanh()


def w(p: P, a: Tensor) -> Tensor:
    return p.weight.to(a.dtype)


def to(t: Tensor, a: Tensor) -> Tensor:
    return t.to(a.dtype)


ANY: dict[str, Step] = {
    "add": lambda p, a, b: a + fit(a, b),
    "subtract": lambda p, a, b: a - 0.5 * fit(a, b),
    "product": lambda p, a, b: a * fit(a, b) / 2,
    "add scaled": lambda p, a, b: torch.add(a, fit(a, b), alpha=-2),
    "negative": lambda p, a: 1 - a,
    "scale": lambda p, a: a / 3 * 2,
    "total": lambda p, a: a.sum(),
    "centred": lambda p, a: a - a.mean(),
    "cat": lambda p, a, b: torch.cat([flat(a)[1:], flat(b)[:4]]),
    "stacked": lambda p, a, b: torch.stack([a, resized(b, *a.shape)], -1),
    "average": lambda p, a, b: torch.stack([a, resized(b, *a.shape)]).mean(0),
    "reversed": lambda p, a: a.flip(tuple(range(a.ndim))),
    "turned": lambda p, a: a.permute(tuple(reversed(range(a.ndim)))),
    "contiguous": lambda p, a: a.permute(tuple(reversed(range(a.ndim)))).contiguous().view(-1),
    "first": lambda p, a: some(a).select(0, 0),
    "last": lambda p, a: some(a)[..., -1:],
    "expanded": lambda p, a: a.unsqueeze(0).expand(2, *a.shape),
    "squeezed": lambda p, a: a.unsqueeze(-1).squeeze(),
    "detached": lambda p, a, b: a * fit(a, b).detach() / 2,
    "matmul of itself": lambda p, a: rows(a) @ rows(a).mT / 3,
    "rolled": lambda p, a: some(a).roll(1, -1),
    "absolute": lambda p, a: a.abs(),
    "square": lambda p, a: a**2 / 4,
    "cumulative sum": lambda p, a: some(a).cumsum(-1) / 2,
    "chosen rows": lambda p, a: some(a).index_select(0, torch.tensor([0, -1 % some(a).shape[0], 0])),
}
"""Steps of real and complex values."""

REAL: dict[str, Step] = {
    # element by element
    "relu": lambda p, a: a.relu(),
    "tanh": lambda p, a: a.tanh(),
    "gelu": lambda p, a: F.gelu(a),
    "gelu by tanh": lambda p, a: F.gelu(a, approximate="tanh"),
    "gelu by hand": lambda p, a: 0.5 * a * (1 + torch.erf(a / 2**0.5)),
    "silu": lambda p, a: F.silu(a),
    "silu by hand": lambda p, a: a * a.sigmoid(),
    "mish": lambda p, a: F.mish(a),
    "elu": lambda p, a: F.elu(a, 0.7),
    "selu": lambda p, a: F.selu(a),
    "sigmoid": lambda p, a: a.sigmoid(),
    "softplus": lambda p, a: F.softplus(a, 2.0),
    "leaky relu": lambda p, a: F.leaky_relu(a, 0.2),
    "parametric relu": lambda p, a: F.prelu(rows(a), to(p.bias, a)),
    "hard swish": lambda p, a: F.hardswish(a),
    "hard tanh": lambda p, a: F.hardtanh(a),
    "sine": lambda p, a: a.sin(),
    "cosine": lambda p, a: a.cos(),
    "arc tangent": lambda p, a: a.atan(),
    "error function": lambda p, a: a.erf(),
    "exponential": lambda p, a: a.clamp(max=2).exp(),
    "logarithm": lambda p, a: a.abs().log1p(),
    "root": lambda p, a: (a * a + 1).sqrt(),
    "cube": lambda p, a: a.tanh() ** 3,
    "clamp": lambda p, a: a.clamp(-1, 0.5),
    "clamp from below": lambda p, a: a.clamp(min=-0.3),
    "clamp below a value": lambda p, a, b: torch.clamp(a, max=b.mean()),
    "shrink": lambda p, a: F.softshrink(a, 0.2),
    "reciprocal": lambda p, a: (a * a + 1).reciprocal(),
    "rounded": lambda p, a: a + a.round(),
    # linear
    "linear": lambda p, a: F.linear(rows(a), w(p, a), to(p.bias, a)),
    "linear without bias": lambda p, a: F.linear(resized(a, 2, 2, 3), w(p, a)),
    "matmul": lambda p, a: rows(a) @ w(p, a),
    "addmm": lambda p, a: torch.addmm(to(p.bias, a), rows(a), w(p, a), beta=2, alpha=0.5),
    "matrix vector": lambda p, a, b: torch.mv(rows(a), resized(b, 3).to(a.dtype)) / 2,
    "bias": lambda p, a: rows(a) + p.bias,
    "scaled channels": lambda p, a: rows(a) * p.bias - 0.1,
    "convolution 1d": lambda p, a: F.conv1d(line(a), to(p.kernel1, a), to(p.channels, a), padding=1),
    "convolution 2d": lambda p, a: F.conv2d(image(a), to(p.kernel2, a), to(p.channels, a), stride=2, padding=1),
    "dilated convolution": lambda p, a: F.conv2d(image(a), to(p.kernel2, a), dilation=2, padding="same"),
    "depthwise convolution": lambda p, a: F.conv2d(image(a), to(p.depthwise, a), groups=2),
    "transposed convolution": lambda p, a: F.conv_transpose2d(
        image(a)[..., :2, :2], to(p.kernel2, a), to(p.channels, a), stride=2
    ),
    "average pool": lambda p, a: F.avg_pool2d(image(a), 2, padding=1),
    "adaptive pool": lambda p, a: F.adaptive_avg_pool2d(image(a), (3, 2)),
    "fourier": lambda p, a: torch.fft.rfft(wide(a)).abs(),
    # of two
    "gate": lambda p, a, b: a * fit(a, b).sigmoid(),
    "quotient": lambda p, a, b: a / (fit(a, b).abs() + 1),
    "batched product": lambda p, a, b: torch.bmm(resized(a, 2, 2, 3), resized(b, 2, 3, 2).to(a.dtype)) / 3,
    "einsum": lambda p, a, b: torch.einsum("ij,kj->ik", rows(a), rows(b).to(a.dtype)) / 3,
    "outer": lambda p, a, b: torch.einsum("bi,bj->bij", resized(a, 2, 3), resized(b, 2, 3).to(a.dtype)),
    "einsum with weights": lambda p, a: torch.einsum("bij,jk->bki", resized(a, 2, 2, 3), w(p, a)),
    "larger": lambda p, a, b: torch.maximum(a, fit(a, b) + 0.1),
    "smaller": lambda p, a, b: torch.minimum(a, fit(a, b) * 0.7),
    "choice": lambda p, a, b: torch.where(a > 0.1, a, fit(a, b)),
    "between": lambda p, a, b: torch.lerp(a, like(b, a), 0.3),
    "added product": lambda p, a, b: torch.addcmul(a, like(b, a), a, value=0.5),
    "added quotient": lambda p, a, b: torch.addcdiv(a, like(b, a), a * a + 1),
    "sum of exponentials": lambda p, a, b: torch.logaddexp(a, like(b, a)),
    "distance": lambda p, a, b: (rows(a)[:, None] - rows(b)[None]).pow(2).sum(-1),
    "cosine similarity": lambda p, a, b: F.cosine_similarity(rows(a) + 0.1, resized(b, *rows(a).shape) + 0.2),
    "recurrent cell": gru_cell,
    # reductions
    "mean": lambda p, a: some(a).mean(0),
    "sum kept": lambda p, a: some(a).sum(-1, keepdim=True),
    "variance": lambda p, a: wide(a).var(-1),
    "norm of rows": lambda p, a: (wide(a) + 0.1).norm(dim=-1),
    "largest": lambda p, a: some(a).amax(-1),
    "largest with index": lambda p, a: some(a).max(0)[0],
    "smallest": lambda p, a: a.min(),
    "middle": lambda p, a: wide(a).median(-1)[0],
    "log sum exp": lambda p, a: some(a).logsumexp(-1),
    "product of all": lambda p, a: wide(a).tanh().prod(-1),
    "running product": lambda p, a: wide(a).tanh().cumprod(-1),
    "running largest": lambda p, a: wide(a).cummax(-1)[0],
    "running smallest": lambda p, a: wide(a).cummin(-1)[0],
    "top two": lambda p, a: wide(a).topk(2)[0],
    "sorted": lambda p, a: some(a).sort(-1)[0],
    "ranked": lambda p, a: flat(a)[flat(a).argsort(descending=True)],
    "max pool": lambda p, a: F.max_pool2d(image(a), 2),
    "overlapping max pool": lambda p, a: F.max_pool2d(image(a), 3, stride=1, padding=1),
    "max pool 1d": lambda p, a: F.max_pool1d(line(a), 2),
    "adaptive max pool": lambda p, a: F.adaptive_max_pool2d(image(a), 2),
    # moves
    "strided": lambda p, a: flat(a).clone().as_strided((2, 2), (0, 1)) if a.numel() > 1 else a,
    "windows": lambda p, a: wide(a).unfold(-1, 2, 1),
    "patches": lambda p, a: F.unfold(image(a), 2, stride=2),
    "folded": lambda p, a: F.fold(resized(a, 1, 8, 4), (3, 3), 2),
    "shuffled pixels": lambda p, a: F.pixel_unshuffle(image(a), 2),
    "nearest": lambda p, a: F.interpolate(image(a)[..., ::2, ::2], scale_factor=2),
    "bilinear": lambda p, a: F.interpolate(image(a)[..., :3, :3], (4, 2), mode="bilinear"),
    "padded": lambda p, a: F.pad(some(a), (1, -1)) + 0.1,
    "reflected": lambda p, a: F.pad(line(a), (2, 1), "reflect"),
    "circular": lambda p, a: F.pad(line(a), (1, 1), "circular")[..., ::2],
    "split": lambda p, a: torch.cat(rows(a).split([1, 2], 1)[::-1], 1),
    "chunks": lambda p, a: (lambda u, v: u * v.sigmoid())(*image(a).chunk(2, 1)),
    "unbound": lambda p, a: sum(rows(a).unbind(1)) / 2,
    "repeated": lambda p, a: flat(a)[:6].repeat(2, 2),
    "interleaved": lambda p, a: flat(a)[:6].repeat_interleave(2),
    "moved": lambda p, a: resized(a, 2, 2, 3).movedim(0, 2),
    "triangle": lambda p, a: rows(a).tril(),
    "diagonal": lambda p, a: resized(a, 3, 3).diagonal(1),
    "on the diagonal": lambda p, a, b: torch.diag_embed(flat(a)[:3]) + resized(b, 1).to(a.dtype),
    "gathered": lambda p, a, b: rows(a).gather(1, resized(b, *rows(a).shape).argsort(1)),
    "scattered": lambda p, a, b: rows(a).scatter(1, torch.zeros(1, 1, dtype=torch.int64), resized(b, 1, 1).to(a.dtype)),
    "scattered sum": lambda p, a: torch.zeros(3, dtype=a.dtype).scatter_add(
        0, torch.arange(a.numel()) % 3, a.reshape(-1)
    ),
    "added rows": lambda p, a, b: rows(a).index_add(0, torch.tensor([0, 0]), resized(b, 2, 3).to(a.dtype), alpha=0.5),
    "put": lambda p, a, b: flat(a).index_put((torch.tensor([0, 0]),), resized(b, 2).to(a.dtype), accumulate=True),
    "row replaced": lambda p, a, b: torch.select_scatter(rows(a), resized(b, 3).to(a.dtype), 0, -1),
    "columns replaced": lambda p, a, b: torch.slice_scatter(rows(a), like(b, rows(a)[:, ::2]), 1, 0, 3, 2),
    "diagonal replaced": lambda p, a, b: torch.diagonal_scatter(resized(a, 3, 3), resized(b, 3).to(a.dtype)),
    "masked": lambda p, a: a.masked_fill(a > 0.5, 0.0),
    "windows rolled": lambda p, a: image(a).roll((1, 1), (2, 3)).view(1, 2, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1),
    # types
    "single": lambda p, a: a.float(),
    "half": lambda p, a: F.silu(a.clamp(-8, 8).half()).to(a.dtype),
    "brain": lambda p, a: (a.clamp(-8, 8).bfloat16() / 2).relu().to(a.dtype),
    "double": lambda p, a: a.double() * 0.7,
    "truth": lambda p, a, b: a * (fit(a, b) > 0),
    "count": lambda p, a, b: a * (fit(a, b) > 0).long().sum() / 4,
    "truth as number": lambda p, a: a - (a > 0).to(a.dtype) * 0.3,
    "looked up": lambda p, a: p.table[(flat(a)[:4] > 0).long()] * flat(a)[:1],
    "dropout": lambda p, a: F.dropout(a, 0.5, training=False),
    "complex": lambda p, a, b: torch.complex(a.double(), like(b, a).double()),
    "rotated": lambda p, a: (
        torch.view_as_complex(resized(a, 2, 2, 2).double().contiguous())
        * torch.polar(torch.ones(2, dtype=torch.float64), torch.arange(2, dtype=torch.float64))
    ),
    "spectrum": lambda p, a: torch.fft.fft(wide(a).double()) / 2,
    "back from spectrum": lambda p, a: torch.fft.irfft(torch.fft.rfft(wide(a).double()) * (1 + 2j), n=4),
    # in place
    "in place": lambda p, a, b: a.clone().mul_(like(b, a)).add_(1),
    "written slice": written_slice,
    "written row": written_row,
    "written view": written_view,
    "written buffer": written_buffer,
    "written index": written_index,
    "written mask": written_mask,
    # normalisers and attention
    "softmax": lambda p, a: some(a).softmax(-1),
    "softmax by hand": lambda p, a: softmax_by_hand(some(a)),
    "log softmax": lambda p, a: wide(a).log_softmax(-1),
    "layer norm": lambda p, a: F.layer_norm(rows(a), (WIDTH,), to(p.bias, a), None, eps=0.1),
    "layer norm by hand": lambda p, a: norm_by_hand(wide(a)),
    "rms norm": lambda p, a: F.rms_norm(wide(a), (wide(a).shape[-1],), eps=0.1),
    "rms norm by hand": lambda p, a: a * torch.rsqrt(some(a).pow(2).mean(-1, keepdim=True).reshape(-1)[:1] + 0.1),
    "group norm": lambda p, a: F.group_norm(image(a), 2, to(p.channels, a), to(p.channels, a), eps=0.1),
    "instance norm": lambda p, a: F.instance_norm(image(a), eps=0.1),
    "batch norm": lambda p, a: F.batch_norm(image(a), to(p.mean, a), to(p.variance, a), to(p.channels, a)),
    "convolution and batch norm": lambda p, a: F.batch_norm(
        F.conv2d(image(a).double(), p.kernel2, p.channels), p.mean, p.variance, p.channels, p.channels
    ),
    "norm": lambda p, a: wide(a) / (wide(a).norm(dim=-1, keepdim=True) + 0.1),
    "normalised": lambda p, a: F.normalize(some(a), dim=-1, eps=0.1),
    "deviation": lambda p, a: wide(a) / (wide(a).var(-1, keepdim=True) + 0.1).sqrt(),
    "attention": lambda p, a, b: F.scaled_dot_product_attention(heads(a), like(heads(b), heads(a)), heads(a)),
    "masked attention": lambda p, a, b: F.scaled_dot_product_attention(
        heads(a), heads(a), like(heads(b), heads(a)), attn_mask=p.causal
    ),
    "causal attention": lambda p, a: F.scaled_dot_product_attention(heads(a), heads(a), heads(a), is_causal=True),
    "attention by hand": attention_by_hand,
}
"""Steps of real values."""


def of_real(step: Step) -> Step:
    """Whole numbers are looked up, complex numbers are pairs."""
    return lambda p, *values: step(p, *once(p.real, values))


def of_numbers(step: Step) -> Step:
    """Whole numbers are looked up."""
    return lambda p, *values: step(p, *once(lambda x: x if x.is_complex() else p.real(x), values))


def once(change: Callable[[Tensor], Tensor], values: tuple[Tensor, ...]) -> list[Tensor]:
    """Each changed, one that is given twice only once."""
    changed = {id(x): x for x in values}
    changed = {key: change(x) for key, x in changed.items()}
    return [changed[id(x)] for x in values]


STEPS: dict[str, Step] = {name: of_numbers(step) for name, step in ANY.items()} | {
    name: of_real(step) for name, step in REAL.items()
}

SIGNED: dict[str, Step] = {
    "whole signs": lambda p, a: rows(a) * p.signs,
    "whole signs added": lambda p, a: rows(a) + p.signs,
    "whole signs joined": lambda p, a: torch.cat([flat(a), p.signs.to(a.dtype)]),
    "whole signs scaled": lambda p, a: rows(a) * (p.signs * p.flags),
    "levels": lambda p, a: rows(a) * p.levels / 100,
    "levels added": lambda p, a: torch.add(rows(a), p.levels, alpha=0.01),
    "levels taken": lambda p, a: torch.add(rows(a), p.levels, alpha=-0.01),
    "levels wrapped": lambda p, a: rows(a) * p.levels.to(torch.int8) / 50,
    "levels wrapped by a sum": lambda p, a: rows(a) * (p.levels.to(torch.int8) + p.flags) / 50,
    "flags": lambda p, a: rows(a) * p.flags,
    "flags added": lambda p, a: rows(a) + p.flags,
    "flags as whole numbers": lambda p, a: rows(a) * p.flags.long(),
    "larger as number": lambda p, a, b: a * (fit(a, b) > 0).to(a.dtype),
    "cut to whole": lambda p, a: a.relu() * (a * 3).to(torch.int8),
    "times minus a half": lambda p, a: a.relu() * -0.5,
    "times minus one": lambda p, a: a.abs() * -1,
    "plus minus one": lambda p, a: a.relu() + -1,
    "plus zero": lambda p, a: a + 0,
    "relu added": lambda p, a, b: torch.add(a, like(b, a).relu(), alpha=2),
    "relu taken": lambda p, a, b: torch.add(a.relu(), like(b, a).relu(), alpha=-0.5),
    "clamped by keyword": lambda p, a: a.clamp(max=0.5, min=0),
    "clamped below nought": lambda p, a: torch.clamp(a, min=-0.5),
    "clamped between crossed bounds": lambda p, a: a.clamp(0.5, -0.5) + a,
    "clamped relu from above": lambda p, a: a.relu().clamp(max=-0.25) + a / 2,
    "clamped by tensors": lambda p, a: torch.clamp(rows(a), p.signs.to(a.dtype) / 4, to(p.bias, a)),
    "clamped by values": lambda p, a, b: torch.clamp(a, min=like(b, a).abs()),
    "hard tanh by keyword": lambda p, a: F.hardtanh(a, max_val=2.0, min_val=0.0),
    "hard tanh of relu": lambda p, a: F.hardtanh(a.relu(), -2.0, -0.5) + a,
    "relu to six": lambda p, a: F.relu6(a),
    "padded by less than nought": lambda p, a: F.avg_pool2d(F.pad(image(a).relu(), (1, 1), value=-1.0), 2),
    "padded average": lambda p, a: F.avg_pool2d(image(a).relu(), 3, 1, 1, count_include_pad=False),
    "average by a divisor": lambda p, a: F.avg_pool2d(image(a).relu(), 2, divisor_override=-3),
    "dilated max pool": lambda p, a: F.max_pool2d(image(a).relu(), 2, 1, 1, dilation=2),
    "soft plus turned": lambda p, a: F.softplus(a, -1.0),
    "soft plus cut": lambda p, a: F.softplus(a, 1.0, -1.0),
    "mean over all": lambda p, a: a.relu().mean(),
    "larger than relu": lambda p, a, b: torch.maximum(-like(b, a).abs(), a.relu()),
    "hidden": lambda p, a: (rows(a) @ w(p, a)).relu(),
    "hidden convolution": lambda p, a: F.conv2d(image(a), to(p.kernel2, a), to(p.channels, a), padding=1).relu(),
    "two hidden": lambda p, a: F.linear(F.linear(rows(a), w(p, a), to(p.bias, a)).relu(), w(p, a)).relu(),
    "branches": lambda p, a: (lambda z: z.relu() + z.tanh())(F.linear(rows(a), w(p, a))),
    "relu twice": lambda p, a: (lambda z: z.relu() + (z * 1.5).relu())(F.linear(rows(a), w(p, a))),
}
"""Steps that change signs, keep them, or look as if they did; for tests of what is proved of signs and dead sides."""
PLAIN = (
    "relu", "tanh", "sigmoid", "hard tanh", "exponential", "softplus", "clamp", "clamp from below", "linear",
    "linear without bias", "bias", "scaled channels", "matmul", "addmm", "convolution 1d", "convolution 2d",
    "dilated convolution", "depthwise convolution", "transposed convolution", "average pool", "adaptive pool",
    "max pool", "overlapping max pool", "max pool 1d", "softmax", "add", "subtract", "product", "add scaled",
    "negative", "scale", "total", "cat", "average", "square", "absolute", "gate", "mean", "sum kept", "larger",
    "norm of rows", "largest", "double", "truth", "count", "batch norm", "convolution and batch norm", "repeated",
    "expanded", "turned", "first",
)  # fmt: skip
"""Steps that stand between these."""

EVERY: dict[str, Step] = STEPS | {name: of_real(step) for name, step in SIGNED.items()}
"""All steps by name."""
OPERANDS = {name: len(signature(step).parameters) - 1 for name, step in (ANY | REAL | SIGNED).items()}
"""How many values a step takes."""
