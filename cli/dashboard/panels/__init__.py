"""Panels: one piece of the screen each."""
