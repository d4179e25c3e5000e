"""What defines the numbers, stated once: recipe, weights, architecture and its builders."""
