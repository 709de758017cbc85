"""Trained metric methods for programs without torch."""
