"""Imported first by the server that workers are forked from, so that the libraries it imports next are quiet."""

from u2seg.tool import quiet

quiet()
