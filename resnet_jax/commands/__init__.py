"""The commands of `python -m resnet_jax`, one a file; `door` is what they have in common.

A command is a module whose docstring's first line says what it does and whose `main(argv)` does it.
"""
