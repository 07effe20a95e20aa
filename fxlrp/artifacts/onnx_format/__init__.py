"""Artefacts as ONNX models.

Takes a program, or the bytes of an ``.onnx`` file. Returns a model in plain ONNX ops with a manifest at its end, or
what onnxruntime makes of it. A file from elsewhere may hold what fxlrp writes and no more, and its tensors have a
bound.
"""
