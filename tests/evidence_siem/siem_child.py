"""A sender of its own that dies with SIGKILL at a step: ``siem_child.py <database> <root> <step> <how many times passed>``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "evidence")]


async def main(url: str, root: str, step: str, passes: int) -> None:
    from ledger_world import World
    from siem_world import SiemWorld

    left = passes

    def fault(name: str) -> None:
        nonlocal left
        if name == step:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    siem = SiemWorld(World(url, Path(root)))
    await siem.delivery(fault=fault).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
