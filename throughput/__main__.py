"""``python -m throughput``: ours and theirs in turns, in one run, with the circumstances printed."""

import argparse
from functools import partial
from pathlib import Path

import torch

from fewshot_pl.freed_memory import keep_freed_memory
from throughput.apart import with_peer
from throughput.report import circumstances, table, write
from throughput.sections import SECTIONS, comparisons_of, run_as_peer
from throughput.setting import Setting
from throughput.timing import Comparison


def main() -> None:
    flags = _flags()
    keep_freed_memory()  # as our commands do
    repeats = 2 if flags.quick else flags.repeats
    setting = Setting(torch.device(flags.device), Path(flags.root), Path(flags.work), repeats, flags.quick)
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
    parser.add_argument("--quick", action="store_true", help="run everything once, in minutes; the figures mean little")
    parser.add_argument("--output", help="folder for results.json, a Markdown table and a bar chart")
    parser.add_argument("--root", default="data", help="folder with the archives of Omniglot and CIFAR-100")
    parser.add_argument("--work", default="throughput_work", help="folder for image files, caches and logs")
    parser.add_argument("--repeats", type=int, default=5, help="rates taken of each side, in turns")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="which to run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
