"""Passes that take out of an emitted graph what its results do not need.

Take a graph, change it in place, and return the number of rewrites: repeated expressions, neutral arithmetic, zeros,
and what is not selected. Every result is what it was, entry by entry.
"""
