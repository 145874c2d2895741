"""Is anything lost? Compares the broker with what was stored, and reports with what they are made of."""
