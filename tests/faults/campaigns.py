"""All campaigns, in the order of the table."""

from tests.faults import kills, trainings

CAMPAIGNS = [*kills.CAMPAIGNS, *trainings.CAMPAIGNS]
