"""The checker that holds every annotated shape and type to what really passes through, while tests run."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is also a float, as for mypy
