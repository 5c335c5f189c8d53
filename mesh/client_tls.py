"""TLS as clients of Hopmesh speak it: whom they trust and which certificate they show, from three environment variables.

Decides nothing about ports; the host that is called must be in the port's certificate.
MESH_CA: PEM file with the CA to trust instead of the system's. MESH_CERT, MESH_KEY: PEM files with a certificate of one's own.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from mesh.model.errors import MeshError


def client_context(environ: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """A context for https:// and wss://. Cost: reading the system's CAs, some ms. Raises: MeshError MESH-A017 for a file."""
    env = os.environ if environ is None else environ
    ca, cert, key = (env.get(name, "") for name in ("MESH_CA", "MESH_CERT", "MESH_KEY"))
    where = f"MESH_CA={ca}"
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            where = f"MESH_CERT={cert}"
            context.load_cert_chain(cert, key or None)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise MeshError("MESH-A017", where, str(reason).replace("_", " ").lower()) from None
    return context
