"""Floor 3: what a run leaves in its folder."""
