"""Masks of things, found by normalised cuts."""
