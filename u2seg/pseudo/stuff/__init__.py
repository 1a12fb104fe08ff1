"""Stuff: amorphous regions labelled over the whole set."""
