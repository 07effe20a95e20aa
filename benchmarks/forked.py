"""Work in processes that may crash or hang: what does is halved until what is to blame is left."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Task(Protocol):
    """Work that can be halved.

    Attributes:
        seconds: After which it hangs.
    """

    @property
    def seconds(self) -> float: ...

    def halves(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Child:
    """A process that does a task, and the file that it leaves results in."""

    task: Any
    pid: int
    path: Path
    until: float


def sweep(
    tasks: Sequence[Task],
    processes: int,
    work: Callable[[Any], list[Any]],
    done: Callable[[Any, list[Any], str], None],
) -> None:
    """Do all tasks, so many at a time.

    Args:
        tasks: What is to be done.
        processes: How many at a time.
        work: Does a task, in a process that is forked for it.
        done: Takes a task, its results, and what went wrong; the latter only of tasks that have no halves.
    """
    waiting, children = deque(tasks), list[Child]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(sys.maxsize):
            while waiting and len(children) < processes:
                children.append(start(waiting.popleft(), Path(folder) / f"{number}-{len(children)}", work))
            if not children:
                return
            time.sleep(0.02)
            for child in list(children):
                if (reason := ended(child)) is None:
                    continue
                children.remove(child)
                halves = child.task.halves() if reason else []
                waiting.extendleft(reversed(halves))
                if not halves:
                    done(child.task, [] if reason else pickle.loads(child.path.read_bytes()), reason)


def start(task: Task, path: Path, work: Callable[[Any], list[Any]]) -> Child:
    """Do it in a process of its own."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, of which none is torch's
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            logging.disable(logging.ERROR)
            warnings.simplefilter("ignore")
            path.write_bytes(pickle.dumps(work(task)))
            code = 0
        except BaseException as error:
            path.write_text(f"{type(error).__name__}: {error}"[:500])
        finally:
            os._exit(code)
    return Child(task, pid, path, time.monotonic() + task.seconds)


def ended(child: Child) -> str | None:
    """What became of a process: nothing yet, nothing bad, or what went wrong."""
    pid, status = os.waitpid(child.pid, os.WNOHANG)
    if pid == 0 and time.monotonic() < child.until:
        return None
    if pid == 0:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        return "hangs"
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return child.path.read_text() if os.WEXITSTATUS(status) else ""
