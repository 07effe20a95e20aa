"""Programs in files.

Takes a program, or a file from anyone. Returns a file that runs without fxlrp, or a
`fxlrp.artifacts.artifact.Artifact` that is called as an attributor is. A file is read once, all of it is checked
before torch or onnxruntime sees any, and a new file takes the place of an old one whole or not at all.
"""
