"""The commands of `python -m resnet_jax`, one per file; they share `_cli`.

A command is a module with a `main(argv)`; the first line of its docstring is its help text.
"""
