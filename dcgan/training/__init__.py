"""Floor 4: what goes on while it trains."""
