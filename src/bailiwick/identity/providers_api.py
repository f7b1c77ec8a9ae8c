"""Routes of the identity providers: where people come from, and whether that works."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, JsonValue, SecretStr, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.identity.directories import LdapOptions, LdapSecrets
from bailiwick.identity.login.oidc_options import OidcOptions, OidcSecrets
from bailiwick.identity.login.saml_options import SamlOptions, SamlSecrets
from bailiwick.identity.providers import Draft, Provider, Providers, revealed
from bailiwick.identity.testing import Testers
from bailiwick.kernel.answers import page, version_guard
from bailiwick.kernel.fields import Body, Line, Name, NamePath, after_name
from bailiwick.kernel.http import Caller, Cursor, Limit, require, set_etag, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.PROVIDERS_READ))]
Writer = Annotated[Caller, Depends(require(Permission.PROVIDERS_WRITE))]
Member = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]


class _NewProvider(Body):
    name: Name = Field(examples=["corp"], description="Also the realm that a person may name when signing in")
    enabled: bool = True

    def draft(self) -> Draft:
        """The provider as the service knows it."""
        given: Any = self
        return Draft(
            self.name, given.kind, given.options.model_dump(mode="json"), revealed(given.secrets), self.enabled
        )


class NewLdap(_NewProvider):
    """An LDAP directory, Active Directory among them."""

    kind: Literal["ldap"]
    options: LdapOptions
    secrets: LdapSecrets = LdapSecrets()


class NewOidc(_NewProvider):
    """An OpenID provider."""

    kind: Literal["oidc"]
    options: OidcOptions
    secrets: OidcSecrets = OidcSecrets()


class NewSaml(_NewProvider):
    """A SAML 2.0 provider."""

    kind: Literal["saml"]
    options: SamlOptions
    secrets: SamlSecrets = SamlSecrets()


# one member each kind
NewProvider = Annotated[NewLdap | NewOidc | NewSaml, Field(discriminator="kind")]


class ProviderPatch(Body):
    """Changes to a provider (JSON merge patch): of its kind's ``options`` and ``secrets``, and ``enabled``."""

    enabled: bool = True
    options: dict[Member, JsonValue] = Field(default_factory=dict, max_length=60)
    secrets: dict[Member, SecretStr | None] = Field(default_factory=dict, max_length=10)

    def patch(self) -> dict[str, Any]:
        """The members that were sent."""
        sent: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        if "secrets" in sent:
            sent["secrets"] = {
                name: value.get_secret_value() if value is not None else None for name, value in self.secrets.items()
            }
        return sent


class TestBody(Body):
    """Whose sign-in to walk through; without a name only what needs nobody is tested."""

    __test__ = False

    username: Line = ""
    password: Annotated[SecretStr, Field(max_length=1024)] = SecretStr("")


def routes(providers: Providers, testers: Testers) -> APIRouter:
    """The routes of the identity providers over their service."""
    router = APIRouter(prefix="/api/v1/identity-providers", tags=["identity providers"])

    def answer(response: Response, provider: Provider) -> dict[str, Any]:
        set_etag(response, provider.version)
        return provider.document()

    @router.get("", summary="List identity providers; secrets are never shown")
    async def list_providers(
        request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await providers.list(zone_of(request), after_name(cursor), limit)
        return page([provider.document() for provider in found], following)

    @router.post("", status_code=201, summary="Connect an identity provider")
    async def create_provider(
        request: Request, response: Response, caller: Writer, body: NewProvider
    ) -> dict[str, Any]:
        return answer(response, await providers.create(context_of(request, caller), body.draft()))

    @router.get("/{name}", summary="Show an identity provider, without its secrets")
    async def get_provider(request: Request, response: Response, caller: Reader, name: NamePath) -> dict[str, Any]:
        return answer(response, await providers.get(zone_of(request), name))

    @router.patch("/{name}", summary="Change an identity provider (JSON merge patch)")
    async def change_provider(
        request: Request, response: Response, caller: Writer, name: NamePath, body: ProviderPatch
    ) -> dict[str, Any]:
        context, guard = context_of(request, caller), version_guard(request)
        return answer(response, await providers.change(context, name, body.patch(), guard))

    @router.delete("/{name}", status_code=204, summary="Disconnect an identity provider that nobody came by")
    async def delete_provider(request: Request, caller: Writer, name: NamePath) -> None:
        await providers.delete(context_of(request, caller), name, version_guard(request))

    @router.post("/{name}/test", summary="Walk through a sign-in and say what fails, and how to mend it")
    async def test_provider(request: Request, caller: Writer, name: NamePath, body: TestBody) -> dict[str, Any]:
        """Nobody is signed in by it, and a wrong password counts in the directory as any other."""
        provider = await providers.get(zone_of(request), name)
        walk = await testers.walk(provider, body.username, body.password.get_secret_value())
        await providers.tested(context_of(request, caller), provider, walk.verdict)
        return walk.document()

    return router
