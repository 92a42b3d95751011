import os
import sys

import lit.formats

config = globals()["config"]  # given by lit

config.name = "qvit"
config.suffixes = [".mlir"]
config.excludes = ["data"]  # files that tests read, no tests themselves
config.test_format = lit.formats.ShTest()
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(os.path.dirname(config.test_source_root), "build", "lit")
config.maxIndividualTestTime = 60  # seconds: a rewrite pattern that always fires never ends

# lit clears the environment. qvit-opt and filecheck are those beside the interpreter that runs lit.
config.environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
config.environment["PYTHONWARNINGS"] = "error::DeprecationWarning"

# Source -> custom form -> generic form -> custom form: both forms print what was read.
config.substitutions.append(
    (
        "QVIT_ROUNDTRIP",
        "qvit-opt %s --split-input-file | qvit-opt --split-input-file --print-op-generic"
        " | qvit-opt --split-input-file | filecheck %s",
    )
)
