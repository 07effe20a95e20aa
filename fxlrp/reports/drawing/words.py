"""Relevance of words: from the pieces of a tokenizer to coloured text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from rich.style import Style
from rich.text import Text

RED, BLUE = (222, 66, 56), (52, 116, 214)
DEPTH = 0.8
"""How much of the full colour the largest relevance takes; dark text stays readable on it."""


@dataclass(frozen=True)
class Word:
    """A word, or a special token, and its relevance."""

    text: str
    relevance: float


@dataclass(frozen=True)
class Sentence:
    """A text that a tokenizer has split.

    Attributes:
        text: The text.
        tokens: The tokenizer's pieces, special tokens included.
        spans: Where each piece is in the text; empty for special tokens.
        word_ids: Number of the word of each piece, as the tokenizer counts.
    """

    text: str
    tokens: Sequence[str]
    spans: Sequence[tuple[int, int]]
    word_ids: Sequence[int | None]

    @classmethod
    def of(cls, text: str, encoding: Any) -> Sentence:
        """Split a text by the encoding of a fast tokenizer that was asked for offsets."""
        spans = [(int(start), int(end)) for start, end in encoding["offset_mapping"][0]]
        return cls(text, encoding.tokens(0), spans, encoding.word_ids(0))

    @classmethod
    def of_tokens(cls, text: str, tokens: Sequence[str]) -> Sentence:
        """Take pieces whose places in the text are not known; each counts as a word."""
        return cls(text, tokens, [(0, 0)] * len(tokens), [None] * len(tokens))

    def words(self, relevance: Iterable[float]) -> list[Word]:
        """Join pieces to words, with the sum of their relevance."""
        found: list[Word] = []
        end, last = -1, None
        for token, span, word, r in zip(self.tokens, self.spans, self.word_ids, relevance, strict=True):
            start, stop = span
            text = self.text[start:stop]
            # Some tokenizers take a whole sentence for one word: pieces belong together only if letters meet.
            joined = word == last and 0 < start == end and (self.text[start - 1] + text[:1]).isalnum()
            if found and start < stop and joined:
                found[-1] = replace(found[-1], text=found[-1].text + text, relevance=found[-1].relevance + r)
            else:
                found.append(Word((text or token).strip() or "␣", r))
            end, last = stop, word
        return found


def find_largest(*texts: Sequence[Word]) -> float:
    """Find the largest absolute relevance of any word."""
    return max((abs(word.relevance) for words in texts for word in words), default=0.0)


def choose_colour(share: float) -> tuple[int, int, int]:
    """Choose a colour: white for 0, towards red for 1 and blue for -1."""
    full = RED if share > 0 else BLUE
    r, g, b = (round(255 - DEPTH * min(abs(share), 1.0) * (255 - channel)) for channel in full)
    return r, g, b


def colour_words(words: Sequence[Word], largest: float) -> Text:
    """Put words on coloured ground, for a terminal."""
    line = Text()
    for word in words:
        r, g, b = choose_colour(word.relevance / (largest or 1.0))
        line.append(f" {word.text} ", Style.parse(f"#202020 on rgb({r},{g},{b})"))
    return line


def format_signed(relevance: float, largest: float) -> str:
    """Write a number with its sign, with as many decimals as the largest needs for three digits."""
    decimals = 2 - math.floor(math.log10(largest)) if largest > 0 else 2
    return f"{relevance:+.{min(max(decimals, 0), 12)}f}"


def number_words(words: Sequence[Word], largest: float) -> Text:
    """Write words with their relevance behind them, for output without colours."""
    return Text("  ".join(f"{word.text} {format_signed(word.relevance, largest)}" for word in words))


def mark_up_words(words: Sequence[Word], largest: float) -> str:
    """Write words as HTML that shows each number when pointed at."""
    return " ".join(
        '<span class="word" data-relevance="{}" style="background:rgb({},{},{})">{}</span>'.format(
            format_signed(word.relevance, largest), *choose_colour(word.relevance / (largest or 1.0)), escape(word.text)
        )
        for word in words
    )


STYLE = """
body { font: 17px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #202020; background: #fafafa;
       max-width: 52rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.45rem; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0 0 .6rem; font-weight: 600; }
.card { background: #fff; border: 1px solid #e2e2e2; border-radius: .6rem; padding: 1rem 1.2rem; margin: 1rem 0; }
.words { font-size: 1.2rem; line-height: 2.1; }
.word { position: relative; padding: .2rem .35rem; border-radius: .3rem; cursor: default; white-space: nowrap; }
.word:hover::after { content: attr(data-relevance); position: absolute; left: 50%; bottom: 105%; z-index: 1;
       transform: translateX(-50%); padding: .05rem .5rem; border-radius: .3rem; font-size: .85rem;
       background: #202020; color: #fff; line-height: 1.6; }
.legend { display: flex; align-items: center; gap: .6rem; font-size: .9rem; }
.bar { flex: 0 0 14rem; height: .8rem; border-radius: .3rem; border: 1px solid #e2e2e2; }
table { border-collapse: collapse; font-size: .95rem; }
td, th { padding: .2rem 1.2rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
tr:last-child td { border-top: 1px solid #c8c8c8; font-weight: 600; }
p { margin: .4rem 0; }
.note { color: #555; font-size: .9rem; }
"""


def make_word_page(
    title: str, intro: str, texts: Sequence[tuple[str, Sequence[Word]]], table: Sequence[Sequence[str]], note: str
) -> str:
    """Write a self-contained HTML page: coloured texts, the legend and a table of sums.

    Args:
        title: Heading.
        intro: A sentence below it.
        texts: Name and words of each text.
        table: Rows of a table, the first of which is its head.
        note: What the last line says.
    """
    largest = find_largest(*(words for _, words in texts))
    cards = "\n".join(
        f'<div class="card"><h2>{escape(name)}</h2><div class="words">{mark_up_words(words, largest)}</div></div>'
        for name, words in texts
    )
    head, *rows = table
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    stops = ", ".join("rgb({},{},{})".format(*choose_colour(share)) for share in (-1.0, 0.0, 1.0))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(intro)}</p>
{cards}
<div class="legend"><span>against {format_signed(-largest, largest)}</span>
<span class="bar" style="background:linear-gradient(to right, {stops})"></span>
<span>{format_signed(largest, largest)} for</span></div>
<div class="card"><table>
<tr>{cells}</tr>
{body}
</table></div>
<p class="note">{escape(note)}</p>
</body>
</html>
"""
