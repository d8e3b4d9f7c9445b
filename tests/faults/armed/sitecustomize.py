"""Python imports this by itself at its start.

FAULT_AT says at which change of a file the process is to end.
"""

import os

if os.environ.get("FAULT_AT"):
    from tests.faults import deadly

    deadly.arm(int(os.environ["FAULT_AT"]))
