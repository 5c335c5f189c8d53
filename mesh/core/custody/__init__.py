"""Hop custody: what this node stored and owes to somebody, until the next one has stored it, too."""
