"""Refused messages: what was refused and why, and sending them again."""
