"""Archives as torch.export writes them, read without torch.export.

Takes the bytes of a ``.pt2`` file. Returns the graph and the weights in it. Every part is held against what fxlrp
writes before anything is made of it; nothing is unpickled, and no code of the file runs.
"""
