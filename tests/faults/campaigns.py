"""All campaigns, in the order of the table."""

CAMPAIGNS = []
