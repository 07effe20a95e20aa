"""Models and inputs as they are named on a command line."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp import _torch
from fxlrp.api import compile
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER
from fxlrp.attributor import Attributor
from fxlrp.cli.options import parse_output
from fxlrp.cli.prologue import silence_logging
from fxlrp.errors import ArtifactError, FxlrpError, SignatureError
from fxlrp.ir.targets import Target
from fxlrp.optional import import_transformers
from fxlrp.reports.drawing.words import Sentence

EXAMPLE_TEXT = "The capital of France is Paris, and the capital of Italy is Rome."
MODEL_FORMS = (
    "a model is package.module:callable, a .pt2 file of torch.export.save (with --trust), or hf:FOLDER_OR_NAME"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what to call it with.

    Attributes:
        model: The model.
        args: Example positional arguments.
        kwargs: Example keyword arguments.
        target: What to explain unless told otherwise.
        sentence: The text behind the token ids.
        token: The text of a token id, for models that predict tokens.
    """

    model: nn.Module | ExportedProgram
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Target = None
    sentence: Sentence | None = None
    token: Callable[[int], str] | None = None

    def compile(self, rules: str, output: str | None, **options: Any) -> Attributor:
        """Compile the model, as `fxlrp.compile` does, for an output as it is typed."""
        return compile(self.model, rules=rules, output=parse_output(output), **options)


def load_model(spec: str, text: str | None = None, trust: bool = False) -> LoadedModel:
    """Load the model that a command line names.

    Args:
        spec: ``package.module:callable``, a ``.pt2`` file, or ``hf:`` and a folder or name.
        text: Input text, for a model with a tokenizer.
        trust: Whether a file that torch.export.save wrote may be loaded.

    Raises:
        ArtifactError: If a saved model is missing, is not trusted, cannot be read, or is an artefact.
        FxlrpError: If the name leads to no model.
    """
    if spec.startswith("hf:"):
        return load_from_hub(spec.removeprefix("hf:"), text)
    if text is not None:
        raise SignatureError("--text needs a model with a tokenizer, hf:FOLDER_OR_NAME; give --input for this one")
    if is_artifact(spec):
        raise ArtifactError(
            f"{spec} is an artefact of fxlrp, a finished program: it is for `fxlrp run`, explain, serve and batch. "
            "This needs the model that it was made of"
        )
    if spec.endswith(".pt2"):
        return load_exported(Path(spec), trust)
    if ":" not in spec:
        raise FxlrpError(f"{spec!r} names no model: {MODEL_FORMS}")
    return load_callable(spec)


def is_artifact(spec: str) -> bool:
    """Return whether a command line names a file that fxlrp wrote; only the names of its members are read."""
    if not spec.endswith(".pt2"):
        return spec.endswith(".onnx")
    try:
        with zipfile.ZipFile(spec) as members:
            return any(name.partition("/")[2] == MANIFEST_MEMBER for name in members.namelist())
    except Exception:  # zipfile raises a dozen kinds for what is no archive
        return False


def load_exported(path: Path, trust: bool) -> LoadedModel:
    """Load a program that torch.export.save wrote."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}")
    if not trust:
        raise ArtifactError(
            f"{path} was not written by fxlrp. torch.export.load evaluates Python code of such a file and unpickles "
            "parts of it, which can do whatever you can. If you trust its origin: --trust"
        )
    try:
        with silence_logging():
            program = _torch.load_exported(path)
    except Exception as error:
        raise ArtifactError(
            f"{path} is no program of torch.export.save, or is damaged: {summarize_error(error)}\n"
            "Write it again with torch.export.save(torch.export.export(model, args), path)."
        ) from error
    args, kwargs = program.example_inputs or ((), {})
    return LoadedModel(program, tuple(args), kwargs)


def import_by_name(path: str) -> ModuleType:
    """Import a module of the user, from the current folder or the Python path.

    Raises:
        FxlrpError: If that fails.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(path)
    except Exception as error:
        raise FxlrpError(
            f"{path} could not be imported: {summarize_error(error)}\n"
            "The current folder and the Python path were searched."
        ) from error


def load_callable(spec: str) -> LoadedModel:
    """Call a function without arguments that returns a module, or a module and example inputs."""
    path, _, name = spec.partition(":")
    module = import_by_name(path)
    if not hasattr(module, name):
        close = ", ".join(get_close_matches(name, dir(module))) or "nothing"
        raise FxlrpError(f"{path} has no {name!r}; close to it: {close}")
    found = getattr(module, name)
    if not isinstance(found, (nn.Module, ExportedProgram)):
        try:
            found = found()
        except Exception as error:
            raise FxlrpError(f"{spec} failed when called without arguments: {summarize_error(error)}") from error
    return check_returned(spec, found)


def check_returned(spec: str, found: Any) -> LoadedModel:
    """Check what a callable returned, and put the model into evaluation mode."""
    parts = found if isinstance(found, tuple) else (found,)
    model, args, kwargs = (*parts, *(None, (), {})[len(parts) :])[:3]
    fits = (
        len(parts) <= 3
        and isinstance(model, (nn.Module, ExportedProgram))
        and isinstance(args, (tuple, list))
        and isinstance(kwargs, Mapping)
    )
    if not fits:
        shape = ", ".join(type(part).__name__ for part in parts)
        raise FxlrpError(
            f"{spec} returned {f'({shape})' if isinstance(found, tuple) else shape}; it must return a module, "
            "(module, args) or (module, args, kwargs), args a tuple and kwargs a dictionary"
        )
    return LoadedModel(model.eval() if isinstance(model, nn.Module) else model, tuple(args), kwargs)


def load_from_hub(name: str, text: str | None) -> LoadedModel:
    """Load a model of transformers, with its tokenizer if it reads text."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ArtifactError(f"there is no folder {name}")
    local = {"local_files_only": True} if Path(name).is_dir() else {}
    with import_transformers("hf") as library:
        try:
            config = library.AutoConfig.from_pretrained(name, **local)
            kind = getattr(library, (config.architectures or ["AutoModel"])[0], library.AutoModel)
            model = kind.from_pretrained(name, **local).eval()
            reads_text = model.main_input_name == "input_ids"
            tokenizer = library.AutoTokenizer.from_pretrained(name, **local) if reads_text else None
        except Exception as error:
            raise ArtifactError(f"transformers loads no model from {name!r}: {summarize_error(error)}") from error
    model.config.use_cache = False
    if tokenizer is not None:
        return add_text(model, tokenizer, text)
    if text is not None:
        raise SignatureError(f"{type(model).__name__} does not read text but {model.main_input_name}: give --input")
    return LoadedModel(model, kwargs=make_example(model.main_input_name, config))


def add_text(model: Any, tokenizer: Any, text: str | None) -> LoadedModel:
    """Give a language model a text; one that predicts tokens explains the next, or the masked one."""
    kind = type(model).__name__
    if text is None:
        text = EXAMPLE_TEXT.replace("Rome", tokenizer.mask_token) if kind.endswith("ForMaskedLM") else EXAMPLE_TEXT
    encoding = tokenizer(text, return_tensors="pt", return_offsets_mapping=tokenizer.is_fast, truncation=True)
    ids = encoding["input_ids"]
    if not ids.numel():
        raise SignatureError(f"the text {text!r} gives no tokens: it is empty, or the model has no tokenizer")
    sentence = (
        Sentence.of(text, encoding)
        if tokenizer.is_fast
        else Sentence.of_tokens(text, tokenizer.convert_ids_to_tokens(ids[0].tolist()))
    )
    kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    target: Target = None
    if model.config.is_encoder_decoder:
        kwargs["decoder_input_ids"] = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
        target = (-1, None)
    elif kind.endswith(("ForCausalLM", "LMHeadModel")):
        target = (-1, None)
    elif kind.endswith("ForMaskedLM"):
        masked = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
        target = (masked[0] if masked else -1, None)
    token = None if target is None else tokenizer.decode
    return LoadedModel(model, (), kwargs, target, sentence, token)


def make_example(name: str, config: Any) -> dict[str, Tensor]:
    """Make noise of the size that a model's configuration asks for; nothing if that is not known."""
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None)
    if name != "pixel_values" or size is None:
        return {}
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    noise = torch.rand(1, getattr(vision, "num_channels", 3), height, width, generator=torch.Generator().manual_seed(0))
    return {name: noise}


def summarize_error(error: Exception) -> str:
    """Put an error into one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
