"""Read random files by the thousand; the short form is tests/fuzz/test_tables.py.

    python -m benchmarks.fuzz [FILES]

The figures go to benchmarks/fuzz.json.
"""

import json
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from tests.fuzz.test_tables import FILES, check_one_file


def main(files: int) -> None:
    """Run the campaign; it ends with the smallest failing file, if there is one."""
    read = 0

    @settings(max_examples=files, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(FILES)
    def campaign(content: bytes) -> None:
        nonlocal read
        read += 1
        check_one_file(content)

    campaign()
    Path(__file__).with_suffix(".json").write_text(json.dumps({"files": read, "failures": 0}, indent=2) + "\n")
    print(f"{read:,} files read, no row lost, no traceback")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
