"""The accelerators that can be rented: what each can do, draws and costs. Data with dates; prices go stale."""

from dataclasses import dataclass

from model.errors import unknown


@dataclass(frozen=True)
class Chip:
    """One accelerator, from its maker's data sheet and a cloud's public price list."""

    title: str
    """What people call it."""
    peak_flops: float
    """Dense bfloat16 FLOP/s."""
    hbm_bytes: float
    """Memory. The sheets' GB are read as 10^9 bytes, the smaller reading, so that no plan is too hopeful."""
    hbm_bandwidth: float
    """Bytes a second between memory and chip."""
    interconnect_bandwidth: float
    """Bytes a second that it sends to other chips over all its links together (one way; makers add both ways)."""
    board_watts: float | None
    """Power of the board at full load. None: the maker publishes none."""
    dollars_per_hour: float
    """On-demand list price in the US of one chip, its share of the host included."""
    price_date: str
    """When the list said so: year, month, perhaps day."""
    price_source: str
    """Whose list, and what was divided by how many chips."""
    source: str
    """Where the other numbers are from."""
    torus: tuple[int, ...] = ()
    """TPUs: chips along the axes of the largest pod, whose neighbours are linked."""
    ring: int = 0
    """TPUs: an axis of a multiple of so many chips closes to a ring."""
    node: int = 0
    """GPUs: how many the interconnect joins; the network joins such nodes."""
    network_bandwidth: float = 0.0
    """GPUs: bytes a second that each sends to other nodes."""


AWS = "AWS price list, us-east-1, Linux on demand"
GOOGLE = "Google Cloud TPU price list, US regions, on demand"

CHIPS = {
    # Its power is the most that was measured of one chip.
    "v4": Chip(
        "TPU v4",
        peak_flops=275e12,
        hbm_bytes=32e9,
        hbm_bandwidth=1.2e12,
        interconnect_bandwidth=300e9,
        board_watts=192,
        dollars_per_hour=3.22,
        price_date="2025-01-31",
        price_source=GOOGLE,
        source="cloud.google.com/tpu/docs/v4; Jouppi et al. 2023, table 4",
        torus=(16, 16, 16),
        ring=4,
    ),
    "v5e": Chip(
        "TPU v5e",
        peak_flops=197e12,
        hbm_bytes=16e9,
        hbm_bandwidth=819e9,
        interconnect_bandwidth=200e9,
        board_watts=None,
        dollars_per_hour=1.20,
        price_date="2026-08",
        price_source=GOOGLE,
        source="cloud.google.com/tpu/docs/v5e",
        torus=(16, 16),
        ring=16,
    ),
    "v5p": Chip(
        "TPU v5p",
        peak_flops=459e12,
        hbm_bytes=95e9,
        hbm_bandwidth=2.765e12,
        interconnect_bandwidth=600e9,
        board_watts=None,
        dollars_per_hour=4.20,
        price_date="2026-08",
        price_source=GOOGLE,
        source="cloud.google.com/tpu/docs/v5p",
        torus=(16, 20, 28),
        ring=4,
    ),
    "v6e": Chip(
        "TPU v6e",
        peak_flops=918e12,
        hbm_bytes=32e9,
        hbm_bandwidth=1.638e12,
        interconnect_bandwidth=400e9,
        board_watts=None,
        dollars_per_hour=2.70,
        price_date="2026-08",
        price_source=GOOGLE,
        source="cloud.google.com/tpu/docs/v6e",
        torus=(16, 16),
        ring=16,
    ),
    "a100": Chip(
        "NVIDIA A100 SXM 80 GB",
        peak_flops=312e12,
        hbm_bytes=80e9,
        hbm_bandwidth=2.039e12,
        interconnect_bandwidth=300e9,
        board_watts=400,
        dollars_per_hour=27.44705 / 8,
        price_date="2026-07-28",
        price_source=f"{AWS}, p4de.24xlarge / 8",
        source="NVIDIA A100 data sheet",
        node=8,
        network_bandwidth=50e9 / 8,  # EFA of the instance that the price is of
    ),
    "h100": Chip(
        "NVIDIA H100 SXM",
        peak_flops=989e12,
        hbm_bytes=80e9,
        hbm_bandwidth=3.35e12,
        interconnect_bandwidth=450e9,
        board_watts=700,
        dollars_per_hour=55.04 / 8,
        price_date="2026-07-28",
        price_source=f"{AWS}, p5.48xlarge / 8",
        source="NVIDIA H100 data sheet",
        node=8,
        network_bandwidth=50e9,  # EFA of the instance that the price is of
    ),
    "h200": Chip(
        "NVIDIA H200 SXM",
        peak_flops=989e12,
        hbm_bytes=141e9,
        hbm_bandwidth=4.8e12,
        interconnect_bandwidth=450e9,
        board_watts=700,
        dollars_per_hour=63.296 / 8,
        price_date="2026-07-28",
        price_source=f"{AWS}, p5en.48xlarge / 8",
        source="NVIDIA H200 data sheet",
        node=8,
        network_bandwidth=50e9,  # EFA of the instance that the price is of
    ),
    "b200": Chip(
        "NVIDIA B200",
        peak_flops=2250e12,
        hbm_bytes=180e9,
        hbm_bandwidth=8e12,
        interconnect_bandwidth=900e9,
        board_watts=1000,
        dollars_per_hour=113.9328 / 8,
        price_date="2026-07-28",
        price_source=f"{AWS}, p6-b200.48xlarge / 8",
        source="NVIDIA DGX B200 data sheet / 8",
        node=8,
        network_bandwidth=50e9,  # EFA of the instance that the price is of
    ),
}

PUE = 1.09
"""Power that a data centre takes for each watt of its machines: Google's fleet, 2025. Elsewhere 1.54 on average
(Uptime Institute's survey, 2025)."""


def find_chip(name: str) -> Chip:
    """The chip called `name`.

    Raises:
        UserError: there is none; those known are listed.
    """
    if name not in CHIPS:
        raise unknown("chip", name, CHIPS)
    return CHIPS[name]
