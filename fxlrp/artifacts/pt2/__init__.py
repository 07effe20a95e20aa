"""Archives as torch.export writes them, read without torch.export.

Takes an exported program, or the bytes of a ``.pt2`` file. Writes the one, and returns the graph and the weights in
the other. Every part of a file is held against what fxlrp writes before anything is made of it; nothing is unpickled,
and no code of the file runs.
"""
