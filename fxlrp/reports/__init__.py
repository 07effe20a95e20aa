"""What was decided and what happened, for people.

Takes plans, programs and calls. Returns tables and accounts: coverage, ledger, relevance along edges, rounding
errors, the rule catalogue, and the user's own oracle; `drawing` makes pictures of them. A report changes nothing, and
its numbers are of the very program that explains.
"""
