"""Small experiments from the papers, repeated with gradax; `python -m benchmarks.reproductions`."""
