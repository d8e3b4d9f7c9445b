"""Floor 3: how near fakes come to real faces."""
