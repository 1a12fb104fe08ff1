"""From overlap tables to matched scores."""
