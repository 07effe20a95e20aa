"""What is known of a canonical graph.

Each analysis takes a graph and returns a plain value: where relevance is read, which nodes are live, which values are
proved to have no negative entry. Nothing is changed, and what is not proved is not claimed.
"""
