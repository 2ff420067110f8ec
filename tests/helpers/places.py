"""Where things are: the tests, the saves of other versions, the repository."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
FLAMBE = GOLDEN / "flambe_0_4"
ROOT = TESTS.parent
# Where test modules are found by programs that tests start
MODULES = [TESTS, *sorted({path.parent for path in TESTS.glob("*/test_*.py")})]
