"""Benchmarks: what EarnORM costs, as ratios measured in one run beside a bare loop and its peers."""
