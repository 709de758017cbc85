"""``python -m throughput``: times our code and its peers' in turns, in one run, and prints the circumstances."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fewshot_pl.freed_memory import keep_freed_memory
from throughput.apart import with_peer
from throughput.report import circumstances, table, write
from throughput.sections import SECTIONS, comparisons_of, run_as_peer, work_of
from throughput.setting import Setting
from throughput.timing import Comparison


def main() -> None:
    flags = _flags()
    keep_freed_memory()  # as our commands do
    repeats = 2 if flags.quick else flags.repeats
    only = tuple(flags.only)
    setting = Setting(torch.device(flags.device), Path(flags.root), Path(flags.work), repeats, flags.quick, only)
    _check_work(flags.sections, setting)
    about = circumstances(setting.device) | ({"quick": True} if flags.quick else {})
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    found: list[Comparison] = []
    with with_peer(setting, partial(run_as_peer, flags.sections)) as our_setting:
        for comparison in comparisons_of(flags.sections, our_setting):
            found.append(comparison)
            print(f"{comparison.ratio:8.2f}x  {comparison.name}", flush=True)
            if flags.output:
                write(Path(flags.output), found, about)  # at once, so that a run cut short leaves what it has
    print("", table(found, about), sep="\n")


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m throughput", description=__doc__)
    parser.add_argument("--device", default="cpu", help="where the networks run: cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="do a little of all, in minutes; the figures mean little")
    parser.add_argument("--output", help="folder for results.json, a Markdown table and a bar chart")
    parser.add_argument("--root", default="data", help="folder with the archives of Omniglot and CIFAR-100")
    parser.add_argument("--work", default="throughput_work", help="folder for image files, caches and logs")
    parser.add_argument("--repeats", type=int, default=5, help="number of rates to take of each side, in turns")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--only", nargs="+", default=[], help="run only work whose name contains all of these")
    return parser.parse_args()


def _check_work(sections: Sequence[str], setting: Setting) -> None:
    if not work_of(sections, setting):
        every = "\n".join(work.name for work in work_of(sections, replace(setting, only=())))
        print(f"error: --only names no work of these sections, which are\n{every}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
