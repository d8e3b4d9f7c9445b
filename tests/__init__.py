"""A package, for one that the tests install has modules of this name, too."""
