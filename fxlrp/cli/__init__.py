"""The command line: one module per group of commands.

Takes what is typed. Returns tables, files and an exit status: 0, or 2 with one clear line if the input is at fault.
Options that several commands have are named once, in `options`; how models are loaded and errors reported, in
`prologue`. Commands use the library as anyone would, and import what needs torch when they run.
"""
