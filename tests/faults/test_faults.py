"""The short form of every campaign: a few trials of each kind of fault."""

import pytest

from tests.faults import disks
from tests.faults.__main__ import attempt
from tests.faults.campaigns import CAMPAIGNS
from tests.faults.trials import SUITE, finish, start

SHORT = [campaign for campaign in CAMPAIGNS if campaign.short]


@pytest.mark.faults
@pytest.mark.parametrize("campaign", SHORT, ids=lambda campaign: campaign.name)
def test_nothing_is_lost_and_nothing_wrong_comes_in(campaign, tmp_path):
    tally = attempt(campaign, range(campaign.short))
    assert (tally.lost, tally.wrong) == ([], [])
    if campaign in disks.CAMPAIGNS and not tally.faults:
        with disks.disk(tmp_path / "disk", 2**20) as is_mounted:
            if not is_mounted:
                pytest.skip("nothing was tried: no disk may be mounted here")
    assert tally.faults


@pytest.mark.faults
def test_the_campaigns_are_found_beside_other_packages_tests(tmp_path):
    """Some packages install theirs, under the same name."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/common.py").write_text("raise SystemExit('not these')")
    more = {"cwd": SUITE, "env": {"PYTHONPATH": str(tmp_path)}}
    code, out, err = finish(start("-m", "tests.faults", "--help", **more))
    assert (code, err) == (0, "")
    assert out.startswith("usage: python -m tests.faults [-h]")
