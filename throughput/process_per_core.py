"""MAML trained by one process per CPU core, as ``train.py --trainer.devices`` does it.

Run as a module, this is one of the processes; Lightning runs its command again for each of the others.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_only

from fewshot_pl.freed_memory import keep_freed_memory
from fewshot_pl.process_group import leave_process_group
from throughput.our_way import maml, trained_rate
from throughput.setting import Adaptation, Setting, Task


def process_per_core_rate(
    setting: Setting, task: Task, adaptation: Adaptation, tasks_per_step: int, num_steps: int
) -> float:
    """Training tasks per second over ``num_steps`` steps, in one single-threaded process per thread of this one.

    Raises:
        RuntimeError: a process failed; the message holds what it printed.
    """
    num_processes = torch.get_num_threads()
    work = {
        "root": str(setting.root),
        "work": str(setting.work),
        "task": asdict(task),
        "adaptation": asdict(adaptation),
        "tasks_per_batch": max(tasks_per_step // num_processes, 1),
        "num_steps": num_steps,
        "num_processes": num_processes,
    }
    command = [sys.executable, "-m", "throughput.process_per_core", json.dumps(work)]
    run = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"the processes trained nothing:\n{run.stderr}")
    return float(run.stdout.splitlines()[-1])


def main() -> None:
    keep_freed_memory()  # as train.py does
    work = json.loads(sys.argv[1])
    task, adaptation = Task(**work["task"]), Adaptation(**work["adaptation"])
    setting = Setting(torch.device("cpu"), Path(work["root"]), Path(work["work"]), repeats=1, quick=False)
    data = setting.data(task, tasks_per_batch=work["tasks_per_batch"])
    rate = trained_rate(maml(task, adaptation), data, work["num_steps"], setting, work["num_processes"])
    rank_zero_only(print)(rate)
    leave_process_group()


if __name__ == "__main__":
    main()
