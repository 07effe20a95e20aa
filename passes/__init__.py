"""The passes in order: canonical form before rules, clean-up after emission.

A pass takes a graph, changes it in place, and returns the number of rewrites; `run` applies a list of them. The graph
is legal before and after each, and computes the same: `canonical` before rules are assigned, `cleanup` after emission,
`lowering` where the caller asks for less time, memory or digits. `analyses` return values and change nothing.
"""

from fxlrp.passes.canonical import affine, bags, batch_norm, identities, single_output, softmax, strides, verify
from fxlrp.passes.cleanup import arithmetic, masks, selections, subexpressions, zeros
from fxlrp.passes.manager import Pass, run

CANONICAL: tuple[tuple[str, Pass], ...] = (
    ("erase metadata checks", identities.assertion),
    ("fill empty memory", identities.fill),
    ("give as_strided its memory", strides.own),
    ("drop identities", identities.drop),
    ("open multi-output ops", single_output.open_outputs),
    ("open bags of rows", bags.open_bags),
    ("write products as linear", affine.merge),
    ("recognise softmax", softmax.recognise),
    ("fold batch norm", batch_norm.fold),
    ("verify", verify.verify),
)

CLEANUP: tuple[tuple[str, Pass], ...] = (
    ("drop detachments", identities.undetach),
    ("let views copy", identities.free_views),
    ("drop neutral arithmetic", arithmetic.drop_neutral),
    ("share subexpressions", subexpressions.share),
    ("drop repeated masks", masks.drop),
    ("fuse masks", masks.fuse),
    ("join padded pieces", arithmetic.join),
    ("sink zeros", zeros.sink),
    ("lift selections", selections.lift),
)

__all__ = ["CANONICAL", "CLEANUP", "run"]
