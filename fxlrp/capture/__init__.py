"""From a model and example inputs to a functional ATen graph.

Takes a module or an exported program, and its arguments. Returns `fxlrp.ir.program.Captured`: a graph of ATen ops,
the model's own tensors beside it, and the sizes for which it is the model. The model is never changed, and what
export would drop without a word (stopped gradients, custom backward passes) is in the graph or is refused by name.
"""
