"""SendGrid's API: starting exports, polling them, listing them."""
