"""Runs a .pt2 artefact with torch alone: ``python alone.py MODEL.pt2 INPUTS.pt RESULTS.pt``."""

import sys

import torch

model, inputs, results = sys.argv[1:]
program = torch.export.load(model).module()
torch.save(dict(program(*torch.load(inputs))), results)
if any(name.split(".")[0] == "fxlrp" for name in sys.modules):
    sys.exit("fxlrp was imported")
