"""The calls of one model: their signatures, their programs, their results.

Takes what the user asked for (`options`) and the arguments of a call (`call`). Returns the program that fits them, made
at its first use, and what it explains (`explain`): a `fxlrp.session.result.Result`. A program is of the model as it is
now and computes what the model does, or the call raises; threads may share all of it.
"""
