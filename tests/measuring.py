"""How coverage.py measures a process of the tests in which SQLAlchemy runs.

SQLAlchemy runs every statement in a greenlet. Told of that (``concurrency = greenlet``), coverage.py asks at each call
and each return of whatever runs which greenlet it is in, and looks that up in a mapping written in Python: most of
what measuring costs. What runs in those greenlets is the library's own. Here it is not traced at all, and so there are
no two to be told apart.
"""

from __future__ import annotations

import sys
from typing import Any

from coverage import Coverage


def measure_around_greenlets() -> None:
    """Have this process measured so, if it is measured."""
    measuring = Coverage.current()
    collector = measuring and measuring._collector
    if not collector or collector.tracer_name() != "CTracer" or collector.concur_id_func is None:
        return
    from sqlalchemy.util.concurrency import _concurrency_shim as shim

    class Untraced(shim._AsyncIoGreenlet):  # type: ignore[misc, name-defined]
        def switch(self, *arguments: Any, **more: Any) -> Any:
            return untraced(super().switch, *arguments, **more)

        def throw(self, *arguments: Any) -> Any:
            return untraced(super().throw, *arguments)

    shim._AsyncIoGreenlet = Untraced  # type: ignore[misc, assignment]
    collector.concur_id_func = None  # of threads that are begun from now on
    for tracer in collector.tracers:
        tracer.concur_id_func = None  # type: ignore[union-attr]


def untraced(work: Any, *arguments: Any, **more: Any) -> Any:
    """What ``work`` answers; until it answers, nothing in this thread is traced."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return work(*arguments, **more)
    finally:
        if tracer is not None and hasattr(tracer, "start"):
            tracer.start()  # as coverage.py itself begins; sys.settrace would come into force with the next call only
        else:
            sys.settrace(tracer)
