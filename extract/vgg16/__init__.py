"""Everything that defines the numbers: recipe, weights, architecture, and what is built from it."""
