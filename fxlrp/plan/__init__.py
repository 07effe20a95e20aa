"""From a canonical graph and a rule set to every decision of the compiler.

Takes `fxlrp.ir.program.Captured` and a rule set. Returns a `fxlrp.plan.decide.Plan`: the rule and the operands of
every live node, where relevance is read, and the nodes that no rule serves. Nothing is emitted here, and a name or a
rule that fits nothing is an error.
"""
