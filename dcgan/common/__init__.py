"""Floor 1: what every script needs."""
