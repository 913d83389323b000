"""Talking to what was trained, and the collecting of what people choose."""
