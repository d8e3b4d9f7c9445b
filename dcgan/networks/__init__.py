"""Floor 2: what networks are made of, and how a generator is taken along."""
