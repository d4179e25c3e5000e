"""Benchmarks that anyone can run; every figure in the README comes from one of them."""
