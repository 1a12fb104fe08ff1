"""The HTML gallery and figures."""
