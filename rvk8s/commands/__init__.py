"""One module a command; rvk8s.cli imports it when the command is called.

On top they import click and the standard library only; the rest where it is used, so that
`rvk8s COMMAND --help` is fast too.
"""
