"""The values that the stages of the compiler hand to each other, and the words that all of them use.

Takes nothing from any stage. Returns graphs with what is known of them (`program`), rules and rule sets, targets,
decisions, and where a node comes from (`provenance`). What is here never looks into a stage, and is the same whoever
made it.
"""
