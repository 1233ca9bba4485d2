"""The server beside MLflow's, BentoML's and the same route without a model; see `__main__`."""
