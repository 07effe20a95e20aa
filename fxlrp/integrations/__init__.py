"""Adapters that let other libraries use an attributor.

Take an attributor, and return what the library calls an attribution method. An adapter imports its library, which an
extra of fxlrp installs, translates arguments and results, and computes nothing itself.
"""
