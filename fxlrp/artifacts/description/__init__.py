"""What an artefact says of itself: its manifest.

Takes JSON from a file, or a plan. Returns a `Manifest`: inputs, results and sizes with the conditions on them. Each
field is checked as it is read, and an error names it; tensors of a call are held against it.
"""
