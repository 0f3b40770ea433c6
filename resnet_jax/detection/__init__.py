"""Object detection and localisation (Section 4.3 and the appendices of arXiv 1512.03385)."""
