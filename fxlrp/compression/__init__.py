"""Models made smaller by what relevance says of their parts.

Take importance and sensitivity of layers, or the tensors of layers with the scales of a quantiser. Return how many bits
each layer gets, or tensors that compute the same function; nothing of a model is changed.
"""
