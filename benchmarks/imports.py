"""How much `import kdlab` costs beyond `import torch`; the aim is at most 0.3 s.

Usage: python benchmarks/imports.py [--repeats 7] [--limit SECONDS]

Each repeat is a fresh process that imports torch, then kdlab, then what a study needs of it, and
reports the three times; so both sides of the comparison saw the same machine. Medians are printed.
With --limit the exit status is 1 when kdlab's median is above it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

CODE = """
import json, time
t0 = time.perf_counter()
import torch
t1 = time.perf_counter()
import kdlab
t2 = time.perf_counter()
kdlab.Study
t3 = time.perf_counter()
print(json.dumps([t1 - t0, t2 - t1, t3 - t2]))
"""


def measure(repeats: int) -> list[tuple[float, float, float]]:
    """Seconds for torch, kdlab, and kdlab.Study, in `repeats` fresh processes after one unmeasured."""
    rows = []
    for number in range(repeats + 1):
        out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
        torch_s, kdlab_s, study_s = json.loads(out)
        if number:  # the first one fills the file cache
            rows.append((torch_s, kdlab_s, study_s))
    return rows


def main() -> int:
    """Measure, print, compare with the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    parser.add_argument("--limit", type=float, metavar="SECONDS")
    parser.add_argument("--quick", action="store_true", help="one repeat: only tries the code")
    args = parser.parse_args()
    args.repeats = 1 if args.quick else args.repeats
    torch_s, kdlab_s, study_s = (
        statistics.median(column) for column in zip(*measure(args.repeats), strict=True)
    )
    beyond = kdlab_s + study_s
    print(f"import torch     {torch_s:7.3f} s")
    print(f"import kdlab     {kdlab_s:7.3f} s more")
    print(f"kdlab.Study      {study_s:7.3f} s more")
    share = beyond / torch_s
    print(f"beyond torch     {beyond:7.3f} s = {share:.1%} of import torch (medians of {args.repeats})")
    return 1 if args.limit is not None and beyond > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
