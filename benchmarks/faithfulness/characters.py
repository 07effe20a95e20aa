"""A reader of lines of text, PP-OCRv4: does relevance of a character's logit lie in the box of that character?"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from image_methods import Classifier, integrated_gradients, list_methods
from recogniser import load_recogniser
from tasks import Task, find_file
from torch import Tensor, nn

from fxlrp.evaluate.localisation import draw_boxes, measure_mass, measure_rank

FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
"""Of matplotlib."""
HEIGHT, WIDTH, SIZE, LEFT, LENGTH, EXPLAINED, PATCH = 48, 128, 26, 8, 5, 16, 8
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without characters that are drawn alike."""


class LineReader(nn.Module):
    """The largest logit of each character of the alphabet along the line."""

    def __init__(self) -> None:
        super().__init__()
        self.network, names = load_recogniser()
        chosen = [names.index(character) for character in ALPHABET]
        self.network.head.weight = nn.Parameter(self.network.head.weight[chosen])
        self.network.head.bias = nn.Parameter(self.network.head.bias[chosen])

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x).amax(1)
        return found


def draw_line(text: str, font: Any) -> tuple[Tensor, Tensor]:
    """Draw characters beside each other, and return the image in -1 to 1 and the box of the ink of each."""
    from PIL import Image, ImageDraw

    whole, x, boxes = Image.new("L", (WIDTH, HEIGHT), 255), float(LEFT), []
    draw = ImageDraw.Draw(whole)
    for character in text:
        at = round(x), 6
        draw.text(at, character, fill=0, font=font)
        boxes.append(draw.textbbox(at, character, font=font))
        x += font.getlength(character)
    image = torch.from_numpy(np.asarray(whole).copy()).float() / 127.5 - 1
    return image.expand(3, -1, -1), torch.tensor(boxes)


def draw_lines(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw lines of characters at random: images, the number of one character of each, and the mask of its box."""
    from PIL import ImageFont

    generator = np.random.default_rng(0)
    fonts = [ImageFont.truetype(find_file(f"matplotlib/mpl-data/fonts/ttf/{name}"), SIZE) for name in FONTS]
    images, chosen, masks = [], [], []
    for i in range(count):
        numbers, place = generator.permutation(len(ALPHABET))[:LENGTH], int(generator.integers(LENGTH))
        image, boxes = draw_line("".join(ALPHABET[k] for k in numbers), fonts[i % len(fonts)])
        images.append(image)
        chosen.append(int(numbers[place]))
        masks.append(draw_boxes(boxes[place : place + 1], HEIGHT, WIDTH))
    return torch.stack(images), torch.tensor(chosen), torch.stack(masks)


def read_lines() -> Task:
    """16 lines of five characters, of which one is explained: the part of positive relevance in the box of its ink."""
    images, chosen, masks = draw_lines(EXPLAINED)
    classifier = Classifier(LineReader().eval().requires_grad_(False), images, chosen, PATCH, "network.see")

    def mass(relevance: Tensor) -> list[float]:
        return measure_mass(relevance.detach(), masks).tolist()

    def rank(relevance: Tensor) -> list[float]:
        return measure_rank(relevance.detach(), masks).tolist()

    white = partial(integrated_gradients, start=1.0)  # an empty line, where 0 is a grey one
    methods = list_methods(classifier, {"integrated gradients from white": white})
    return Task("positive relevance in the box", mass, methods, {"rank": rank})


TASKS = {"ocr_boxes": read_lines}
