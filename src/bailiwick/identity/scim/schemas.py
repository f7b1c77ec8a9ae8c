"""What this service provider offers, as it tells clients: configuration, resource types, schemas (RFC 7643 §5-8)."""

from __future__ import annotations

from typing import Any

from bailiwick.identity.standing import RANKS

USER_URN = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP_URN = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE_URN = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:user"  # in lower case, for comparing
CONFIG_URN = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
TYPE_URN = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
SCHEMA_URN = "urn:ietf:params:scim:schemas:core:2.0:Schema"
LIST_URN = "urn:ietf:params:scim:api:messages:2.0:ListResponse"

MAX_RESULTS = 200

# attributes of the standard that are taken without a word and not kept: directories send them by default
PASSED_BY = frozenset(
    (
        "password", "nickname", "profileurl", "usertype", "preferredlanguage", "locale", "timezone", "phonenumbers",
        "ims", "photos", "addresses", "entitlements", "x509certificates",
    )
)  # fmt: skip


def _attribute(name: str, description: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "string",
        "multiValued": False,
        "description": description,
        "required": False,
        "caseExact": False,
        "mutability": "readWrite",
        "returned": "default",
        "uniqueness": "none",
        **more,
    }


def _complex(name: str, description: str, parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    made = _attribute(name, description, **{"type": "complex", "subAttributes": parts, **more})
    del made["caseExact"]
    return made


_READ_ONLY = {"mutability": "readOnly"}

_USER = [
    _attribute(
        "userName",
        "The person's name here. It never changes: the evidence of what he did stands under it.",
        required=True,
        mutability="immutable",
        uniqueness="server",
    ),
    _complex(
        "name",
        "The parts of the person's name.",
        [_attribute("familyName", "Family name."), _attribute("givenName", "Given name.")],
    ),
    _attribute("displayName", "The person's name as it is shown."),
    _attribute("title", "What he is in the company."),
    _attribute("active", "Whether he may sign in. False ends what he has open, everywhere.", type="boolean"),
    _complex(
        "emails",
        "The person's address. One is kept: the primary one, else the first.",
        [
            _attribute("value", "The address.", uniqueness="server"),
            _attribute("type", "Always work.", canonicalValues=["work"]),
            _attribute("primary", "Always true.", type="boolean"),
        ],
        multiValued=True,
    ),
    _complex(
        "roles",
        "His own role, at most one; a higher one takes the permission users:write.",
        [
            _attribute("value", "The role.", canonicalValues=[*reversed(RANKS)]),
            _attribute("primary", "Always true.", type="boolean"),
        ],
        multiValued=True,
    ),
    _complex(
        "groups",
        "The groups he is in.",
        [
            _attribute("value", "Id of the group.", caseExact=True, **_READ_ONLY),
            _attribute("$ref", "Where the group is.", **_READ_ONLY, type="reference", referenceTypes=["Group"]),
            _attribute("display", "Name of the group.", **_READ_ONLY),
        ],
        multiValued=True,
        **_READ_ONLY,
    ),
]
_GROUP = [
    _attribute("displayName", "Name of the group.", required=True, uniqueness="server"),
    _complex(
        "members",
        "Who is in it.",
        [
            _attribute("value", "Id of the user.", caseExact=True, mutability="immutable"),
            _attribute(
                "$ref",
                "Where the user is.",
                type="reference",
                referenceTypes=["User"],
                mutability="readOnly",
            ),
            _attribute("type", "Always User.", mutability="immutable", canonicalValues=["User"]),
            _attribute("display", "Name of the user.", **_READ_ONLY),
        ],
        multiValued=True,
    ),
]


def configuration(base: str) -> dict[str, Any]:
    """The service provider's configuration. ``base`` is the URL up to ``/scim/v2``."""
    return {
        "schemas": [CONFIG_URN],
        "documentationUri": "https://www.rfc-editor.org/rfc/rfc7644",
        "patch": {"supported": True},
        "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
        "filter": {"supported": True, "maxResults": MAX_RESULTS},
        "changePassword": {"supported": False},
        "sort": {"supported": True},
        "etag": {"supported": True},
        "authenticationSchemes": [
            {
                "type": "oauthbearertoken",
                "name": "API key",
                "description": "An API key with the permission scim:write, as a bearer or in X-API-Key.",
                "primary": True,
            }
        ],
        "meta": {"resourceType": "ServiceProviderConfig", "location": f"{base}/ServiceProviderConfig"},
    }


def resource_types(base: str) -> list[dict[str, Any]]:
    """What kinds of resources there are."""
    return [
        {
            "schemas": [TYPE_URN],
            "id": name,
            "name": name,
            "endpoint": f"/{name}s",
            "description": description,
            "schema": urn,
            "schemaExtensions": [],
            "meta": {"resourceType": "ResourceType", "location": f"{base}/ResourceTypes/{name}"},
        }
        for name, urn, description in (("User", USER_URN, "A person"), ("Group", GROUP_URN, "A group of persons"))
    ]


def schemas(base: str) -> list[dict[str, Any]]:
    """What the resources consist of."""
    return [
        {
            "schemas": [SCHEMA_URN],
            "id": urn,
            "name": name,
            "description": description,
            "attributes": attributes,
            "meta": {"resourceType": "Schema", "location": f"{base}/Schemas/{urn}"},
        }
        for name, urn, description, attributes in (
            ("User", USER_URN, "A person", _USER),
            ("Group", GROUP_URN, "A group of persons", _GROUP),
        )
    ]


def listed(resources: list[dict[str, Any]], total: int, start: int) -> dict[str, Any]:
    """One page of a list (RFC 7644 §3.4.2)."""
    return {
        "schemas": [LIST_URN],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": len(resources),
        "Resources": resources,
    }
