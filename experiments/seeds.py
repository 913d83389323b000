"""Seeds that JAX takes."""

from model.errors import UserError


def check_seed(seed: int) -> None:
    """Refuse a --seed that does not fit.

    Raises:
        UserError: it is negative, or too large.
    """
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed {seed} must lie in [0, 2**31).")
