"""Measures of explanations, whoever made them.

Take a model, inputs, and one number of relevance for each place of an input. Return values with areas under curves,
rows ready for pandas. Larger is better unless a docstring says otherwise; of equal places the first goes first.
"""
