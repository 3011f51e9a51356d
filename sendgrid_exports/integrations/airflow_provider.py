"""What Apache Airflow finds by the entry point `apache_airflow_provider`; imports nothing of it.

https://airflow.apache.org/docs/apache-airflow-providers/howto/create-custom-providers.html
"""

from __future__ import annotations

from typing import Any

from sendgrid_exports import __version__

__all__ = ["get_provider_info"]

_MODULE = "sendgrid_exports.integrations.airflow"
_NAME = "SendGrid contact exports"


def get_provider_info() -> dict[str, Any]:
    """Return the dictionary that Airflow's `provider_info.schema.json` describes."""
    modules = [{"integration-name": _NAME, "python-modules": [_MODULE]}]
    return {
        "package-name": "sendgrid-exports",
        "name": _NAME,
        "description": "Download Twilio SendGrid contact exports, complete and verified.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": (
                    "https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts"
                ),
                "tags": ["service"],
            }
        ],
        "hooks": modules,
        "operators": modules,
        "triggers": modules,
        "connection-types": [
            {
                "connection-type": "sendgrid",
                "hook-class-name": f"{_MODULE}.SendGridHook",
                "hook-name": "SendGrid",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "port", "schema"],
                    "relabeling": {"password": "API key"},
                    "placeholders": {
                        "password": "SG.…",
                        "host": "https://api.eu.sendgrid.com in the EU, otherwise empty",
                        "extra": '{"on_behalf_of": "the name of a subuser"}',
                    },
                },
                "conn-fields": {
                    "on_behalf_of": {
                        "label": "On behalf of",
                        "description": "The subuser to act for, with the key of its parent.",
                        "schema": {"type": ["string", "null"]},
                    }
                },
            }
        ],
    }
