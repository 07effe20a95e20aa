"""Ways of relevance through a model: along which units of its layers it comes from the output to the input.

Take an attributor and an input, and return what passes between units, with the sums that any set of ways must have.
"""
