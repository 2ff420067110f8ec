"""Where things are: the tests, the saves of other versions, the repository; and how long the tests may be."""

import os
from pathlib import Path

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
FLAMBE = GOLDEN / "flambe_0_4"
ROOT = TESTS.parent
# Where test modules are found by programs that tests start
MODULES = [TESTS, *sorted({path.parent for path in TESTS.glob("*/test_*.py")})]
# Above 0, the long forms of tests run, that number of times as long: `make torture`
TORTURE = float(os.environ.get("FLAMBE_SAVE_TORTURE") or 0)
