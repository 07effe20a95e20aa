"""Architectures in plain PyTorch, at the sizes of the papers that introduced them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from published.record import Sample, ids, pixels, published

CORA_NODES, CORA_FEATURES, CORA_CLASSES, CORA_EDGES = 2708, 1433, 7, 10556


def cora() -> tuple[Tensor, Tensor]:
    """Features of the documents of the Cora graph, and its edges."""
    edges = torch.zeros(2, CORA_EDGES, dtype=torch.int64)
    return torch.zeros(CORA_NODES, CORA_FEATURES), edges


class GraphConvolution(nn.Module):
    """Sum over neighbours, normalised by degree (Kipf and Welling 2017)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, outer)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        here, there = edges
        degree = torch.ones_like(x[:, 0]).index_add(0, there, torch.ones_like(here, dtype=x.dtype))
        weight = (degree[here] * degree[there]).rsqrt()
        h = self.dense(x)
        return (h / degree[:, None]).index_add(0, there, weight[:, None] * h[here])


class GraphAttention(nn.Module):
    """Attention over neighbours by scattering (Velickovic et al. 2018)."""

    def __init__(self, inner: int, heads: int, outer: int) -> None:
        super().__init__()
        self.heads, self.outer = heads, outer
        self.dense = nn.Linear(inner, heads * outer, bias=False)
        self.source = nn.Parameter(torch.empty(heads, outer))
        self.target = nn.Parameter(torch.empty(heads, outer))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        here, there = edges
        h = self.dense(x).view(-1, self.heads, self.outer)
        scores = F.leaky_relu((h * self.source).sum(-1)[here] + (h * self.target).sum(-1)[there], 0.2)
        index = there[:, None].expand_as(scores)
        zero = torch.zeros(len(x), self.heads, device=x.device)
        largest = zero.scatter_reduce(0, index, scores, "amax", include_self=False)
        e = (scores - largest[there]).exp()
        attention = e / zero.scatter_add(0, index, e)[there].clamp(min=1e-16)
        return torch.zeros_like(h).index_add(0, there, attention[:, :, None] * h[here]).flatten(1)


class GraphPooling(nn.Module):
    """Largest entry over neighbours (Hamilton et al. 2017)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.pool = nn.Linear(inner, inner)
        self.dense = nn.Linear(2 * inner, outer)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        here, there = edges
        messages = self.pool(x).relu()[here]
        index = there[:, None].expand_as(messages)
        pooled = torch.zeros_like(x).scatter_reduce(0, index, messages, "amax")
        return F.normalize(self.dense(torch.cat([x, pooled], 1)), dim=-1)


class TwoLayers(nn.Module):
    """Two graph layers with an activation between them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.second(F.elu(self.first(x, edges)), edges)


@published("Kipf and Welling 2017, graph convolution", "graph")
def gcn() -> Sample:
    layers = GraphConvolution(CORA_FEATURES, 16), GraphConvolution(16, CORA_CLASSES)
    return TwoLayers(*layers), cora(), {}


@published("Velickovic et al. 2018, graph attention", "graph")
def gat() -> Sample:
    layers = GraphAttention(CORA_FEATURES, 8, 8), GraphAttention(64, 1, CORA_CLASSES)
    return TwoLayers(*layers), cora(), {}


@published("Hamilton et al. 2017, GraphSAGE with pooling", "graph")
def graph_sage() -> Sample:
    layers = GraphPooling(CORA_FEATURES, 128), GraphPooling(128, CORA_CLASSES)
    return TwoLayers(*layers), cora(), {}


class LanguageModel(nn.Module):
    """A recurrent language model."""

    def __init__(self, reader: nn.Module, vocabulary: int, width: int, states: int) -> None:
        super().__init__()
        self.lookup = nn.Embedding(vocabulary, width)
        self.reader = reader
        self.head = nn.Linear(states, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.reader(self.lookup(ids))[0])


@published("Zaremba et al. 2014, medium LSTM", "recurrent")
def lstm() -> Sample:
    return LanguageModel(nn.LSTM(650, 650, 2, batch_first=True), 10000, 650, 650), (ids(35),), {}


@published("Cho et al. 2014, bidirectional GRU", "recurrent")
def gru() -> Sample:
    reader = nn.GRU(500, 1000, batch_first=True, bidirectional=True)
    return LanguageModel(reader, 15000, 500, 2000), (ids(16),), {}


@published("Vaswani et al. 2017, base transformer", "encoder-decoder")
def transformer() -> Sample:
    model = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True)
    return model, (torch.zeros(1, 16, 512), torch.zeros(1, 16, 512)), {}


def double(inner: int, outer: int) -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outer, outer, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """The U-Net of Ronneberger et al. 2015, padded so that sizes agree."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        self.down = nn.ModuleList(double(a, b) for a, b in zip((1, *widths), widths, strict=False))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(double(a, b) for a, b in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, merge, side in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
            x = merge(torch.cat([side, up(x)], 1))
        return self.head(x)


@published("Ronneberger et al. 2015, U-Net", "segmentation")
def u_net() -> Sample:
    return UNet(), (torch.zeros(1, 1, 256, 256),), {}


class ResidualBlock(nn.Module):
    """A block of Ho et al. 2020: the time is added between two convolutions."""

    def __init__(self, inner: int, outer: int, time: int, attends: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(32, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.time = nn.Linear(time, outer)
        self.second = nn.Sequential(nn.GroupNorm(32, outer), nn.SiLU(), nn.Conv2d(outer, outer, 3, padding=1))
        self.side = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        self.norm = nn.GroupNorm(32, outer) if attends else None
        self.queries = nn.Conv2d(outer, 3 * outer, 1) if attends else None
        self.out = nn.Conv2d(outer, outer, 1) if attends else None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.side(x) + self.second(self.first(x) + self.time(F.silu(t))[:, :, None, None])
        return x if self.norm is None else x + self.attend(self.norm(x))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.queries(x).flatten(2).chunk(3, 1)
        a = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1]), -1)
        return self.out(torch.einsum("bij,bcj->bci", a, v).view(x.shape))


class Denoiser(nn.Module):
    """The U-Net that Ho et al. 2020 train on CIFAR-10: widths 128, 256, 256, 256, attention at 16 x 16."""

    def __init__(self, widths: tuple[int, ...] = (128, 256, 256, 256), blocks: int = 2, attends: int = 1) -> None:
        super().__init__()
        time = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, width = [widths[0]], widths[0]
        for level, outer in enumerate(widths):
            for _ in range(blocks):
                self.down.append(ResidualBlock(width, outer, time, level == attends))
                width = outer
                kept.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
        self.middle = nn.ModuleList(ResidualBlock(width, width, time, a) for a in (True, False))
        for level, outer in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(ResidualBlock(width + kept.pop(), outer, time, level == attends))
                width = outer
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.head = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        half = self.time[0].in_features // 2
        angles = step[:, None] * torch.exp(torch.arange(half, device=x.device) * (-math.log(10000) / half))
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.stem(x)
        kept = [x]
        for block in self.down:
            x = block(x, t) if isinstance(block, ResidualBlock) else block(x)
            kept.append(x)
        for block in self.middle:
            x = block(x, t)
        for block in self.up:
            if isinstance(block, ResidualBlock):
                x = block(torch.cat([x, kept.pop()], 1), t)
            else:
                x = block(F.interpolate(x, scale_factor=2.0))
        return self.head(x)


@published("Ho et al. 2020, denoising diffusion", "diffusion")
def diffusion() -> Sample:
    return Denoiser(), (torch.zeros(1, 3, 32, 32), torch.zeros(1)), {}


class FourierLayer(nn.Module):
    """A product with complex weights in frequency space, beside a convolution of size 1."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.empty(2, width, width, modes, modes, dtype=torch.complex64))
        self.side = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        m, spectrum = self.modes, torch.fft.rfft2(x)
        low = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.weight[0])
        high = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.weight[1])
        gap = torch.zeros_like(spectrum[:, :, : x.shape[-2] - 2 * m, :m])
        kept = F.pad(torch.cat([low, gap, high], 2), (0, spectrum.shape[-1] - m))
        return F.gelu(torch.fft.irfft2(kept, s=x.shape[-2:]) + self.side(x))


@published("Li et al. 2021, Fourier neural operator", "operator")
def fourier_operator() -> Sample:
    layers = [FourierLayer(32, 12) for _ in range(4)]
    ends = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 128, 1), nn.GELU(), nn.Conv2d(128, 1, 1)
    return nn.Sequential(ends[0], *layers, *ends[1:]), (pixels(64),), {}
