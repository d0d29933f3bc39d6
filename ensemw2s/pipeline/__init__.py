"""Runs one configuration: plan, stages, resume."""
