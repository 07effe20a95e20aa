"""Passes that trade time, memory and digits, where the caller asks for it.

Take a graph, change it in place, and return the number of rewrites: the order in which memory is let go, what is
computed twice, products on fewer digits. What they compute stays the same but for the digits that were asked for.
"""
