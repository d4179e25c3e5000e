"""Runnable comparisons; every figure in README comes from one of them."""
