"""Measuring against the tools a user would otherwise reach for: `nox -s benchmarks`."""
