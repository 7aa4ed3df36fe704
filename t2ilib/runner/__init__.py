"""Notebooks as things that run: plan, launch, execute, parameters, pairing, report."""
