"""What `fxlrp.load` returns: a program from a file, called as an attributor is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fxlrp._torch import without_function_modes
from fxlrp.artifacts.description.fitting import check_inputs, name_results
from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.errors import ArtifactError, SignatureError, TargetError
from fxlrp.ir.targets import INDEX_FORM, SEED_FORM, Contrast, Target, is_in_range, to_numbers
from fxlrp.session.doubts import Question
from fxlrp.session.result import Result
from fxlrp.session.signature import plain_mode

TensorFunction = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Artifact:
    """A saved relevance program: call it with the model's inputs and a target.

    Attributes:
        manifest: What it says about itself.
    """

    def __init__(self, manifest: Manifest, run: TensorFunction) -> None:
        self.manifest = manifest
        self._run = run

    def __repr__(self) -> str:
        about = self.manifest
        return f"Artifact({about.model}, rules={about.rules!r}, format={about.format!r})"

    def __call__(self, *args: Tensor, target: Target = None, **kwargs: Tensor) -> Result:
        """Run the model and attribute one number per sample of its output to the inputs.

        Args:
            args: The inputs, in the order of ``manifest.inputs``.
            target: As in `Attributor.__call__`: None (the largest), a class, an index tuple with None for the largest,
                one of these per sample; or a floating point seed, if the artefact was saved for seeds.
            kwargs: Inputs by name. They are moved to the artefact's device.

        Returns:
            The result, on the device of the first input; its output is a tensor, or a dictionary by name if the model
            returns several. It is the same whatever the caller is in: autocast, modes of gradients, a default device.

        Raises:
            SignatureError: If an input is missing or unknown, of another dtype or shape, not finite, or on meta.
            TargetError: If the target selects nothing, or is of a kind that the artefact was not saved for.
        """
        given, chosen = self.prepare(args, kwargs, target)
        values = self.compute(given, chosen)
        parts = {
            kind: {name.removeprefix(kind).removeprefix("."): t for name, t in values.items() if name.startswith(kind)}
            for kind in ("output", "relevance", "read")
        }
        question = None
        if (explained := self.manifest.explained.name) in values:
            form = SEED_FORM if self.manifest.target == "seed" else INDEX_FORM
            question = Question(lambda _: values[explained], form, tuple(chosen.values()))
        return Result(unwrap_single(parts["relevance"]), unwrap_single(parts["output"]), parts["read"], question)

    def results(self, *args: Tensor, target: Target = None, **kwargs: Tensor) -> dict[str, Tensor]:
        """Run and attribute as a call does; return every result by the name that it has in ``manifest.outputs``."""
        return self.compute(*self.prepare(args, kwargs, target))

    def prepare(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], target: Target
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the inputs, and the tensor of the target if there is one to choose, by name.

        Raises:
            SignatureError, TargetError: As a call.
        """
        with without_caller_modes():
            given = self.bind_inputs(args, kwargs)
            return given, self.make_target(given, target)

    def compute(self, given: Mapping[str, Any], chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the results of what was prepared, by name.

        Raises:
            SignatureError, TargetError: As a call.
        """
        with without_caller_modes():
            results = self.run({**given, **chosen})
            self.check_reached(chosen, results)
            return results

    def bind_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Give names to the inputs, and put them in order.

        Raises:
            SignatureError: If there are too many, or one is given twice.
        """
        names = [spec.name for spec in self.manifest.inputs if spec.name != TARGET]
        if len(args) > len(names):
            raise SignatureError(f"{len(args)} inputs for {len(names)}\n{self.manifest.signature()}")
        given = dict(zip(names, args, strict=False))
        twice = given.keys() & kwargs.keys()
        if twice:
            raise SignatureError(f"'{min(twice)}' is given twice\n{self.manifest.signature()}")
        given.update(kwargs)
        ordered = {name: given.pop(name) for name in names if name in given}
        return {**ordered, **given}

    def make_target(self, given: Mapping[str, Any], target: Target) -> dict[str, Tensor]:
        """Make the tensor of a target for inputs that fit, by name; none if there is nothing to choose.

        Raises:
            SignatureError, TargetError: As a call.
        """
        about = self.manifest
        sizes = check_inputs(about, given)
        if about.target == "none":
            if target is not None:
                raise TargetError("the artefact has one output per sample: there is no target to choose")
            return {}
        tensor = None if isinstance(target, Contrast) else to_numbers(target, about.find_explained_shape(sizes))
        if tensor is None or tensor.is_floating_point() != (about.target == "seed"):
            kinds = {"index": "a class or an index", "seed": "a floating point seed"}
            other = next(kind for kind in kinds if kind != about.target)
            raise TargetError(
                f"the artefact was saved for {kinds[about.target]}: save another one with target={other!r}"
            )
        return {TARGET: tensor.to(getattr(torch, about.inputs[-1].dtype))}

    def check_reached(self, chosen: Mapping[str, Tensor], results: Mapping[str, Tensor]) -> None:
        """Refuse an index beyond a size that is computed of others, and so known only from the results.

        Raises:
            TargetError: If there is one; the relevance of its sample is NaN.
        """
        explained = self.manifest.explained.name
        if self.manifest.target == "index" and explained in results:
            shape = results[explained].shape
            if not bool(is_in_range(shape, chosen[TARGET].to(results[explained].device)).all()):
                raise TargetError(f"the target is out of range: here each sample's output has shape {tuple(shape[1:])}")

    def run(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run on named tensors, the target among them, and return the named results, as any other consumer does.

        They are moved to the artefact's device, and the results to that of the first tensor.

        Raises:
            SignatureError: If the program fails on them.
            ArtifactError: If it returns something else than the manifest says.
        """
        here = next(iter(tensors.values())).device
        try:
            with without_caller_modes():
                found = self._run([tensor.to(self.manifest.device).contiguous() for tensor in tensors.values()])
                found = [result.to(here) for result in found]
        except (torch.OutOfMemoryError, ArtifactError):
            raise
        except Exception as error:
            raise SignatureError(
                f"the program failed on these inputs\n  {error}\n{self.manifest.signature()}"
            ) from error
        return name_results(self.manifest, found)


@contextmanager
def without_caller_modes() -> Iterator[None]:
    """Leave the modes that the caller is in, for the same numbers in all of them."""
    with plain_mode(), without_function_modes():
        yield


def unwrap_single(found: dict[str, Tensor]) -> Any:
    """Return the only entry, or all of them by name."""
    return next(iter(found.values())) if len(found) == 1 else found
