"""The tests; processes of pytest-xdist share the cores, as they would else wait for each other."""

import os

# The tests report nothing to the maker of ONNX Runtime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Libraries read these when they are imported, and a process that a test starts inherits them.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # With one core, joblib starts no processes, each of which would import scikit-learn.
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    for name in (
        "LOKY_MAX_CPU_COUNT",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
    ):
        os.environ.setdefault(name, str(share))
