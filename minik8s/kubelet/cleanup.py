"""`minik8s kubelet --cleanup`: takes the pods off this node: sandboxes with their network, volumes, logs. The API is not asked.

Read next: `cri.py`, `mounts.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from minik8s.kubelet.config import Config
from minik8s.kubelet.cri import Runtime
from minik8s.kubelet.mounts import unmount_below


async def clean_up(config: Config) -> None:
    """Do it, a line for each thing."""
    runtime = Runtime(config.container_runtime_endpoint)
    try:
        for uid in await runtime.listing():
            actual, _ = await runtime.observe(uid)
            for sandbox in actual.sandboxes:
                await runtime.stop_sandbox(sandbox.id)
                await runtime.remove_sandbox(sandbox.id)
            print(f"removed pod {uid}")
    finally:
        await runtime.close()
    for directory in (config.root_dir, config.pod_log_dir):
        unmount_below(directory)
        empty(Path(directory))


def empty(directory: Path) -> None:
    """Leave nothing in a directory."""
    for path in directory.glob("*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
