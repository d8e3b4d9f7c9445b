"""All campaigns, in the order of the table."""

from tests.faults import disks, kills, pictures, servers, trainings, weights

CAMPAIGNS = [
    *kills.CAMPAIGNS,
    *trainings.CAMPAIGNS,
    *disks.CAMPAIGNS,
    *servers.CAMPAIGNS,
    *pictures.CAMPAIGNS,
    *weights.CAMPAIGNS,
]
