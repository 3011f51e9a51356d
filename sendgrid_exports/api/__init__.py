"""Asking SendGrid: starting exports, looking at them, waiting for them."""
