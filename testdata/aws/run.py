"""Runs the emulator of AWS until standard input ends: as long as whoever started it lives, and no longer.

Takes one argument: the emulator's own directory, which is removed at the end unless it holds a file `keep`.
"""

import os
import shutil
import sys
import threading

home = sys.argv.pop()


def end_with_parent():
    sys.stdin.buffer.read()
    if not os.path.exists(os.path.join(home, "keep")):
        shutil.rmtree(home, ignore_errors=True)
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()

from ministack.app import main  # noqa: E402  (reads the environment, and takes half a second)

main()
