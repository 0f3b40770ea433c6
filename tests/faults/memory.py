"""Trains in this process and prints, as JSON, its resident memory at every tenth step.

What has been freed is given back to the system before it is looked at, for the run itself keeps it:
its resident memory is the highest that there was, which rises when, by chance, two things come
together for the first time. And what is left behind after the run: threads of Python's, child
processes, shared memory.
"""

import ctypes
import json
import os
import sys
import threading
from pathlib import Path

import jax

from resnet_jax.runtime.devices import data_mesh, keep_freed_memory
from resnet_jax.training import TrainConfig
from resnet_jax.training.loop import train
from resnet_jax.training.report import Report


def main(workdir, changes):
    sizes, before, original = [], shared(), Report.step

    def step(self, number, *arguments):
        if number % 10 == 0:
            ctypes.CDLL(None).malloc_trim(0)
            sizes.append(resident())
        return original(self, number, *arguments)

    Report.step = step
    keep_freed_memory()
    train(TrainConfig(**changes), workdir, data_mesh(jax.devices()[:1]))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = {
        "resident": sizes,
        "threads": [thread.name for thread in threading.enumerate()],
        "children": [Path(f"/proc/{child}/cmdline").read_text() for child in children],
        "shared": sorted(shared() - before),
    }
    print(json.dumps(found))


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def shared():
    return set(os.listdir("/dev/shm"))


if __name__ == "__main__":  # The loader's workers import this file, too.
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
