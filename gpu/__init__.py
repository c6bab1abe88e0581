"""Reconstruction and its worker; the same array code on CPU and GPU."""
