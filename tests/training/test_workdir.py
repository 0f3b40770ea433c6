"""One work directory, one process."""

import subprocess
import sys

import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.training.workdir import LOCK, locked

HOLD = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write('{"host": "here", "process": %d}' % os.getpid())
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_holder_is_refused_and_a_dead_one_is_no_obstacle(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(ConfigError, match=f"in use by process {holder.pid} on here; wait")
        with refused, locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass
    with locked(tmp_path):  # Left in order, too.
        pass


def test_a_holder_that_left_no_name(tmp_path):
    with locked(tmp_path):
        (tmp_path / LOCK).write_text("{")
        with pytest.raises(ConfigError, match="in use by another process"), locked(tmp_path):
            pass
