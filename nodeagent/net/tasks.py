"""Tasks that nobody awaits are kept and named here, and their failures are logged: none is ever lost."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, Task, current_task, wait
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger("nodeagent.net")


class Tasks:
    """The tasks of one worker."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._tasks: set[Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run the work; what it does not handle itself is a defect and is logged as one."""
        task = self.loop.create_task(work, name=name)  # kept in the next line
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """As ``spawn``, but the work begins now; a task is made of it at its first wait, which must be ``sleep(0)``.

        Most dials need none: a task, its turn of the loop and its end cost as much as the dial.
        """
        try:
            if work.send(None) is not None:
                work.throw(RuntimeError("it waits for something before it is a task"))
        except StopIteration:
            return
        except Exception:
            _log.exception("defect in task %s", name)
            return
        self.spawn(work, name)

    def cancel(self) -> None:
        """Cancel everything that runs."""
        for task in self._tasks:
            task.cancel()

    async def end(self, seconds: float) -> None:
        """Cancel everything that runs, and wait for it, for at most so many seconds."""
        self.cancel()
        ending = self._tasks - {current_task()}
        if ending:
            await wait(ending, timeout=seconds)

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("defect in task %s", task.get_name(), exc_info=task.exception())
