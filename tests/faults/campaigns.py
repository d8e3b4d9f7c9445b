"""All campaigns, in the order of the table."""

from tests.faults import (
    disks,
    kills,
    long_haul,
    pictures,
    servers,
    trainings,
    twice,
    weights,
)

CAMPAIGNS = [
    *kills.CAMPAIGNS,
    *trainings.CAMPAIGNS,
    *twice.CAMPAIGNS,
    *disks.CAMPAIGNS,
    *servers.CAMPAIGNS,
    *pictures.CAMPAIGNS,
    *weights.CAMPAIGNS,
    *long_haul.CAMPAIGNS,
]
