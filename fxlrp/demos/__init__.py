"""The demonstrations of `fxlrp demo`, on real data.

Take nothing but a folder. Return pictures and numbers of a model that is trained or loaded on the spot, and what
holds of them is checked before it is shown. They use the library as anyone would.
"""
