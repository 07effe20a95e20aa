"""Artefacts over HTTP.

Takes requests as JSON, safetensors or in the Open Inference Protocol. Returns explanations, computed in batches. No
request holds up another: bodies have a time and a size, JSON is read in processes of its own, and what cannot be
answered is refused with a reason.
"""
