"""The command line: one module per group of commands.

Takes what is typed. Returns tables, files and an exit status: 0, or 2 with one clear line if the input is at fault.
Models, inputs and options are named in the same way in every command.
"""
