"""All campaigns, in the order of the table."""

from tests.faults import kills

CAMPAIGNS = [*kills.CAMPAIGNS]
