"""The state of the pipeline: on a terminal, in Prometheus, in the browser."""
