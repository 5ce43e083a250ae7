"""Backends beside WebGPU: what becomes of a graph on other devices."""
