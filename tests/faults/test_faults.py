"""The short form of every campaign: a few trials of each kind of fault."""

import pytest

from tests.faults.__main__ import attempt
from tests.faults.campaigns import CAMPAIGNS

SHORT = [campaign for campaign in CAMPAIGNS if campaign.short]


@pytest.mark.faults
@pytest.mark.parametrize("campaign", SHORT, ids=lambda campaign: campaign.name)
def test_nothing_is_lost_and_nothing_wrong_comes_in(campaign):
    tally = attempt(campaign, range(campaign.short))
    assert (tally.lost, tally.wrong) == ([], [])
