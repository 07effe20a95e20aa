"""The ops that a file from elsewhere may call, and what their arguments must be so that memory is safe.

Takes the nodes of a graph. Returns the same ops behind checks of their arguments, one module per family. An op that
is not in the vocabulary is refused by name.
"""
