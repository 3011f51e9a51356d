"""Bring Twilio SendGrid contact exports to disk: every file, whole, verified, in time."""

__version__ = "0.1.0"
