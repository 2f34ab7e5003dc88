"""Simulated runs of which the truth is known, a module for each room; `rows(runs)` of each says how often we are wrong."""
