"""Python imports this by itself at its start: it arms the process that FAULT_AT says."""

import os

if os.environ.get("FAULT_AT"):
    from tests.faults import deadly

    deadly.arm(int(os.environ["FAULT_AT"]))
