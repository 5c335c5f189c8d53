"""Certificates: who a node is, made by a small CA of one's own or read from files of another."""
