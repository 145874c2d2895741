"""Reports and the roll-ups they are made of."""
