"""From a program to what runs it.

Takes a `fxlrp.ir.program.Program`. Returns a callable of the model's tensors and the target: op by op, by Inductor,
or as CUDA graphs. What depends on the model's tensors alone is computed once and again when they change; a kernel is
replaced only where it gives the same numbers but for rounding.
"""
