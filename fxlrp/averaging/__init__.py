"""Explanations averaged over inputs: around the given one, or between it and a baseline.

Take an attributor, and return a function that is called as it is. Its result has the model's output of the given input.
All inputs of an average go through one program, some of them together, and explain what the given input explains.
"""
