"""The builders of test models lie in test/data, outside of any package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))
