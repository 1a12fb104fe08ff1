"""Features of frozen vision transformers."""
