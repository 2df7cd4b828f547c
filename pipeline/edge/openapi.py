"""The document that the collector serves of itself (OpenAPI 3.1): what may be sent, and every answer that there is."""

from typing import Any

_TEXT = {"type": "string"}
_PORTAL = {"name": "portal", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
_CONSENT = {"type": "object", "properties": {name: {"type": "boolean"} for name in ("analytics", "advertisement", "functionality")}}
_HIT = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["page_view", "custom_event", "identify", "form_submission", "email_click"]},
        "event_id": {"type": "string", "format": "uuid"},
        "occurred_at": {"type": "integer", "description": "Milliseconds since 1970 by the browser's clock."},
        "url": {"type": "string", "format": "uri"},
        "utk": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "consent": _CONSENT,
        "properties": {"type": "object"},
    },
}
_ACCEPTED = {
    "type": "object",
    "required": ["accepted", "refused"],
    "properties": {
        "accepted": {"type": "integer"},
        "refused": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["position", "reason"],
                "properties": {"position": {"type": "integer"}, "reason": _TEXT},
            },
        },
    },
}
_FORM = {
    "type": "object",
    "required": ["fields"],
    "properties": {
        "submittedAt": {"type": "integer"},
        "fields": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": _TEXT, "value": {}}}},
        "context": {
            "type": "object",
            "properties": {"hutk": _TEXT, "pageUri": _TEXT, "pageName": _TEXT, "ipAddress": _TEXT, "consent": _CONSENT},
        },
        "legalConsentOptions": {"type": "object"},
        "createNewContactForNewEmail": {"type": "boolean"},
    },
}
_FORM_ERRORS = {
    "type": "object",
    "required": ["status", "errors"],
    "properties": {
        "status": {"const": "error"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "required": ["errorType", "message"], "properties": {"errorType": _TEXT, "message": _TEXT}},
        },
    },
}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    said = {
        400: "The body is not what it should be.",
        403: "The Origin is none of the portal's.",
        404: "There is no such portal, link or route.",
        405: "Another method.",
        408: "The body came too slowly.",
        413: "The body is over 512 KB, or has over 500 hits.",
        415: "Another Content-Encoding than gzip, or another charset of a multipart form than UTF-8.",
        425: "A prefetch follows no links.",
        429: "Too many requests; Retry-After says when to come again.",
        503: "Kafka is away and the spool is full, or too many bodies are on their way; Retry-After says when to come again.",
    }
    return {str(status): _json(said[status], _ERROR) for status in statuses}


_POSTED = (403, 404, 405, 408, 413, 415, 429, 503)

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Edge collector", "version": "1"},
    "paths": {
        "/e/{portal}": {
            "post": {
                "summary": "Hits of the tracking script.",
                "parameters": [_PORTAL, {"name": "Origin", "in": "header", "required": True, "schema": _TEXT}],
                "requestBody": {
                    "required": True,
                    "content": {
                        kind: {
                            "schema": {
                                "anyOf": [
                                    _HIT,
                                    {"type": "array", "items": _HIT, "maxItems": 500},
                                    {
                                        "type": "object",
                                        "required": ["hits"],
                                        "properties": {
                                            "sent_at": {"type": "integer"},
                                            "hits": {"type": "array", "items": _HIT, "maxItems": 500},
                                        },
                                    },
                                ]
                            }
                        }
                        for kind in ("application/json", "text/plain")
                    },
                },
                "responses": {"202": _json("How many were accepted, and why others were not.", _ACCEPTED)} | _errors(400, *_POSTED),
            }
        },
        "/e/{portal}.gif": {
            "get": {
                "summary": "One page view of a page without scripts.",
                "parameters": [_PORTAL, *({"name": name, "in": "query", "schema": _TEXT} for name in ("url", "title", "referrer"))],
                "responses": {"200": {"description": "A picture.", "content": {"image/gif": {}}}} | _errors(404, 405, 429, 503),
            }
        },
        "/forms/{portal}/{form}": {
            "post": {
                "summary": "One submission of a form.",
                "parameters": [
                    _PORTAL,
                    {"name": "form", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,100}$"}},
                    {"name": "Idempotency-Key", "in": "header", "schema": _TEXT},
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": _FORM},
                        "application/x-www-form-urlencoded": {"schema": {"type": "object"}},
                        "multipart/form-data": {"schema": {"type": "object"}},
                    },
                },
                "responses": {
                    "200": {"description": "Thanks, where the portal has no page for it.", "content": {"text/html": {}}},
                    "202": _json("Accepted.", {"type": "object", "properties": {"accepted": {"type": "integer"}}}),
                    "303": {"description": "To the portal's page of thanks."},
                    "400": _json("What is wrong with it.", {"anyOf": [_FORM_ERRORS, _ERROR]}),
                }
                | _errors(*_POSTED),
            }
        },
        "/l/{token}": {
            "get": {
                "summary": "A tracked link.",
                "parameters": [{"name": "token", "in": "path", "required": True, "schema": _TEXT}],
                "responses": {"302": {"description": "To the link's target."}} | _errors(404, 405, 425, 429),
            }
        },
        **{
            path: {
                "get": {
                    "summary": summary,
                    "parameters": [_PORTAL],
                    "responses": {
                        "200": {"description": "The script.", "content": {"text/javascript": {}}},
                        "304": {"description": "As If-None-Match says."},
                    }
                    | _errors(404, 405),
                }
            }
            for path, summary in (("/t/{portal}.js", "The tracking script."), ("/t/{portal}/banner.js", "The consent banner."))
        },
        "/health": {"get": {"summary": "Alive.", "responses": {"200": _json("Alive.", {"type": "object"})} | _errors(405)}},
        "/ready": {"get": {"summary": "Can accept.", "responses": {"200": _json("Ready.", {"type": "object"})} | _errors(405, 503)}},
    },
}
