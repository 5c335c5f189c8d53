"""Whether the three packages of this program are this program's: other distributions own two of their names.

Decides nothing but that. Imports none of them: what a stranger's package of the same name lacks would be missed by an
import first, and nobody would be told why. So `mesh run` asks here before it imports `mesh.app`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from mesh.model.errors import MeshError

PACKAGES: Final = ("mesh", "federation", "registry")


def check_installation() -> None:
    """The three packages must come from one installation. Cost: a look for each along Python's path.

    Raises: MeshError MESH-C021.
    """
    roots: dict[str, Path] = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise MeshError(
                "MESH-C021", name, f"the package {name} of this installation is not the one Python finds"
            )
        roots[name] = Path(spec.origin).resolve().parent.parent
    if len(set(roots.values())) != 1:
        places = ", ".join(f"{name} from {root}" for name, root in roots.items())
        raise MeshError("MESH-C021", "installation", f"its packages come from different places: {places}")
