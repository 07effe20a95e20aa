"""From the decisions of a plan to one flat graph.

Takes a `fxlrp.plan.decide.Plan` and the form of a target. Returns a `fxlrp.ir.program.Program`: the forward walk and
the reverse walk, in which every rule emits its twin, as one functional ATen graph. The walk knows no rule and no op,
and every emitted node says which forward node and rule it is of.
"""
