"""All campaigns, in the order of the table."""

from tests.faults import disks, kills, servers, trainings

CAMPAIGNS = [
    *kills.CAMPAIGNS,
    *trainings.CAMPAIGNS,
    *disks.CAMPAIGNS,
    *servers.CAMPAIGNS,
]
