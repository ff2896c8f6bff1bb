"""The end of a rank whose launcher has died: nobody else would end it, and it would hold its GPU until a collective times out."""

import logging
import os
import signal
import threading
import time

SECONDS_BETWEEN_LOOKS = 5
SECONDS_TO_SAVE = 30        # from SIGTERM to the end, as torchrun itself gives its ranks


def watch_launcher() -> None:
    """Save and end this rank within a minute after the death of the torchrun that started it; does nothing without torchrun.

    A thread compares the parent's process id: it changes when the parent dies, however it dies.  prctl(PR_SET_PDEATHSIG) would be
    sent when the *thread* that started this process ends, which healthy launchers do.  A plain python, also with nohup or
    in the background of a shell that has ended, is meant to outlive its parent: only torchrun and torch.distributed.launch set
    TORCHELASTIC_RUN_ID.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=end_without, args=(os.getppid(),), daemon=True).start()


def end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    logging.getLogger("bct").warning("the launcher (process %d) has died: this rank saves and ends", parent)
    os.kill(os.getpid(), signal.SIGTERM)        # a training saves (engine/signals.py), an extraction ends
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)                                 # it waits for a rank that has ended already
