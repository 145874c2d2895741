"""What the pipeline costs a month, at any rate, beside the other ways to do the same.

Three kinds of numbers go in, each in a file of its own with its source: prices (``prices.yaml``), what was measured
(``coefficients.yaml``), and what was neither (``assumptions.yaml``). Everything else is computed from them.
"""
