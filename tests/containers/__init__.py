"""The image and docker-compose.yml, built and run in a private container engine: `scripts/containers`.

Outside the levels of `scripts/test`, because it takes minutes, needs root and changes the machine's packet filter while it
runs. Standard library only.
"""
