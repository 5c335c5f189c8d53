"""Where nodes are on the globe, and how far light in fibre takes between them.

Source: haversine formula (R. W. Sinnott, "Virtues of the Haversine", 1984); light in fibre travels at about 2/3 c,
and real paths are about 1.5 times the great circle (Singla et al., "The Internet at the Speed of Light", HotNets 2014).
"""

from __future__ import annotations

import math
from typing import Final

EARTH_RADIUS_KM: Final = 6371.0
FIBRE_KM_PER_MS: Final = 200.0
DETOUR: Final = 1.5


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance between two (latitude, longitude) pairs in degrees."""
    lat_a, lon_a, lat_b, lon_b = map(math.radians, (*a, *b))
    h = (
        math.sin((lat_b - lat_a) / 2) ** 2
        + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


def one_way_ms(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Expected one-way latency in milliseconds between two places, at least 0.1."""
    return max(0.1, distance_km(a, b) * DETOUR / FIBRE_KM_PER_MS)
