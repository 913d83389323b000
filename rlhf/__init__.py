"""Alignment: what people chose between, and the reward model that learns from it."""
