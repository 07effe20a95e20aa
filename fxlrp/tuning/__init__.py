"""Choice of rules by measurement.

Takes a model, samples and candidates, each a rule set; returns a report with the best of them, and what each of them
reached on which samples. A candidate that cannot be measured is in the report with the reason, and stops nothing. The
same samples give the same report, times aside.
"""
