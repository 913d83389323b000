"""Alignment: what people chose between, as records and groups to learn from."""
