"""A node without JWTs needs no library for them."""

from __future__ import annotations

import subprocess
import sys


def test_the_program_imports_no_library_for_tokens() -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import mesh.app, sys; print([m for m in ('joserfc', 'cryptography') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
