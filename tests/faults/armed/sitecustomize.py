"""Python imports this by itself at its start.

FAULT_AT says at which change of a file the process is to end, FATAL_NAME at the opening
of which file; where FATAL_ONCE names a file, the first process that finds it alone.
"""

import os

if os.environ.get("FAULT_AT"):
    from tests.faults import deadly

    deadly.arm(int(os.environ["FAULT_AT"]))

if os.environ.get("FATAL_NAME"):
    from tests.faults import deadly

    deadly.arm_against(os.environ["FATAL_NAME"], os.environ.get("FATAL_ONCE"))
