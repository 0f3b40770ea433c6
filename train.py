"""`python train.py ...` is `python -m resnet_jax train ...`; `--help` says more."""

import sys

from resnet_jax.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
