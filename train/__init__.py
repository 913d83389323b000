"""Text to tokens to batches, and the loop that learns from them. Imports `model` only."""
