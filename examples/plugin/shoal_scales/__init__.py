"""A method for shoal in a package of its own."""
