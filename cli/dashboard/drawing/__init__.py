"""Plots, boxes, colours and text of the dashboard."""
