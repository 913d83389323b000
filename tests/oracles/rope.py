"""Rotary frequencies as Llama 3.1's reference code computes them, one frequency at a time.

After `apply_scaling` in meta-llama/llama-models, models/llama3/model.py. Plain Python floats.
"""

import math


def llama31_frequencies(head_dim: int, theta: float, factor: float) -> list[float]:
    """Frequencies of the head_dim / 2 pairs of dimensions."""
    original_context, low_freq_factor, high_freq_factor = 8192, 1.0, 4.0
    scaled = []
    for pair in range(head_dim // 2):
        frequency = theta ** (-2 * pair / head_dim)
        wavelength = 2 * math.pi / frequency
        if wavelength < original_context / high_freq_factor:
            scaled.append(frequency)
        elif wavelength > original_context / low_freq_factor:
            scaled.append(frequency / factor)
        else:
            smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
            scaled.append((1 - smooth) * frequency / factor + smooth * frequency)
    return scaled
