"""The load test: send payments at a fixed rate, time how soon readers see them, check that each came through once."""
