"""How fast the suite is, side by side with what a user would pick instead."""
