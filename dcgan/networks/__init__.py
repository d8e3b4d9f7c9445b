"""Floor 2: what networks are made of."""
