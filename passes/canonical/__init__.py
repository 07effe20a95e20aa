"""Passes that bring a captured graph into canonical form, before rules are assigned.

Take a graph, change it in place, and return the number of rewrites. One function is written in one way afterwards,
every node on the path has one tensor output, and the outputs are what they were.
"""
