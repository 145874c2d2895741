"""Dimensions from files: read, validate, stage, swap, reload the dictionary, verify, record."""
