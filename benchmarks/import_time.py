"""How long `import e2sam` takes, in interpreters of its own.

python -m benchmarks.import_time [--json] [--rounds 7]
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from benchmarks.report import Report, at_most, parser_for

_PROGRAMS = {
    "python": "pass",
    "import numpy": "import numpy",
    "import e2sam": "import e2sam",
    "import segment_anything": "import segment_anything",
    "e2sam.load_model('tiny')": "import e2sam; e2sam.load_model('tiny')",
}


def main() -> None:
    """Run and print."""
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for _ in range(options.rounds):
        for name, program in _PROGRAMS.items():
            start = perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            seconds[name].append(perf_counter() - start)
    taken = {name: median(values) for name, values in seconds.items()}
    report = Report("import_time", {"seconds, median": taken})
    report.bar("import e2sam, seconds with the interpreter's own start", 1.0, taken["import e2sam"], at_most)
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, e2sam; print('torch' in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    report.figures["torch loaded by import e2sam"] = loaded == "True"
    report.show(options.json)


if __name__ == "__main__":
    main()
