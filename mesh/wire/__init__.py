"""Bytes to frames and back, and the CloudEvents formats. No sockets."""
