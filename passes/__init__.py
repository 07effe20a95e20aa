"""The passes in order: canonical form before rules, clean-up after emission.

A pass takes a graph, changes it in place, and returns the number of rewrites; `run_passes` applies a list of them. The
graph is legal before and after each, and computes the same: `canonical` before rules are assigned, `cleanup` after
emission, `lowering` where the caller asks for less time, memory or digits. `analyses` return values and change nothing.
"""

from fxlrp.passes.canonical import affine, bags, batch_norm, identities, single_output, softmax, strides, verify
from fxlrp.passes.cleanup import arithmetic, masks, selections, subexpressions, zeros
from fxlrp.passes.manager import Pass, run_passes

CANONICAL: tuple[tuple[str, Pass], ...] = (
    ("erase metadata checks", identities.erase_assertions),
    ("fill empty memory", identities.fill_empty),
    ("give as_strided its memory", strides.own_memory),
    ("write pairs as complex numbers", strides.own_pairs),
    ("drop identities", identities.drop_identities),
    ("open multi-output ops", single_output.open_outputs),
    ("open bags of rows", bags.open_bags),
    ("write products as linear", affine.merge_products),
    ("recognise softmax", softmax.recognise_softmax),
    ("fold batch norm", batch_norm.fold_batch_norm),
    ("verify", verify.verify_graph),
)

FORMS: dict[str, tuple[tuple[str, Pass], ...]] = {
    "merged": CANONICAL,
    "apart": tuple(
        ("separate batch norm", batch_norm.separate_batch_norm)
        if apply is batch_norm.fold_batch_norm
        else (name, apply)
        for name, apply in CANONICAL
    ),
}
"""Canonical form by what a rule set wants of batch norms."""

CLEANUP: tuple[tuple[str, Pass], ...] = (
    ("drop detachments", identities.drop_detachments),
    ("let views copy", identities.free_views),
    ("give as_strided its memory", strides.own_memory),
    ("write pairs as complex numbers", strides.own_pairs),
    ("drop neutral arithmetic", arithmetic.drop_neutral_arithmetic),
    ("share subexpressions", subexpressions.share_subexpressions),
    ("drop repeated masks", masks.drop_repeated_masks),
    ("fuse masks", masks.fuse_masks),
    ("join padded pieces", arithmetic.join_pieces),
    ("sink zeros", zeros.sink_zeros),
    ("lift selections", selections.lift_selections),
)

__all__ = ["CANONICAL", "CLEANUP", "FORMS", "run_passes"]
