"""Identity's routes: signing in and out, one's own password, users, sessions, applications."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, SecretStr, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.identity import api_keys_api, passkeys_api
from bailiwick.identity.api_keys import ApiKeys
from bailiwick.identity.applications import MAX_GRANTED_SCOPES, MAX_GRANTED_SERVERS, Application, Applications
from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.identity.invitations import Invitations
from bailiwick.identity.login.ldap import LdapLogin
from bailiwick.identity.login.local import LocalLogin
from bailiwick.identity.login.passkeys import Passkeys
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.identity.login.throttle import COUNTED
from bailiwick.identity.sessions import Sessions
from bailiwick.identity.standing import RoleName
from bailiwick.identity.users import NewUser, User, Users
from bailiwick.kernel.agreement import WAITS
from bailiwick.kernel.answers import never_store, page, version_guard
from bailiwick.kernel.errors import Denied, InvalidRequest
from bailiwick.kernel.fields import (
    Body,
    Email,
    IdPath,
    Line,
    Name,
    NamePath,
    Scope,
    Text,
    UserName,
    UserNamePath,
    after_id,
    after_name,
    after_user_name,
)
from bailiwick.kernel.http import (
    Caller,
    Cursor,
    Limit,
    current_caller,
    require,
    set_etag,
    signed_in,
    zone_of,
)
from bailiwick.kernel.permissions import Permission

ApplicationRole = Literal["admin", "operator", "auditor", "viewer"]
# longer than any password we take, so that length alone is refused with a sentence and not with an echo
PasswordField = Annotated[SecretStr, Field(max_length=1024)]
Grants = Annotated[
    dict[Name, Annotated[list[Scope], Field(max_length=MAX_GRANTED_SCOPES)]], Field(max_length=MAX_GRANTED_SERVERS)
]
GrantsPatch = Annotated[
    dict[Name, Annotated[list[Scope], Field(max_length=MAX_GRANTED_SCOPES)] | None],
    Field(max_length=MAX_GRANTED_SERVERS),
]

_NOT_LET_IN: dict[int | str, dict[str, Any]] = {401: {"description": "Not the right words, or not any more"}}

SignedInCaller = Annotated[Caller, Depends(signed_in)]  # also with a one-time password not yet changed
AnyCaller = Annotated[Caller, Depends(current_caller)]
SelfCaller = Annotated[Caller, Depends(require(Permission.SELF))]
UserReader = Annotated[Caller, Depends(require(Permission.USERS_READ))]
UserWriter = Annotated[Caller, Depends(require(Permission.USERS_WRITE))]
ApplicationReader = Annotated[Caller, Depends(require(Permission.APPLICATIONS_READ))]
ApplicationWriter = Annotated[Caller, Depends(require(Permission.APPLICATIONS_WRITE))]
SecretKeeper = Annotated[Caller, Depends(require(Permission.APPLICATIONS_SECRETS))]


class LoginBody(Body):
    """User name and password."""

    username: Annotated[Line, StringConstraints(min_length=1), Field(examples=["jane.doe"])]
    password: PasswordField


# no code is longer; of a token, neither
Code = Annotated[SecretStr, Field(min_length=6, max_length=40)]
OpaqueToken = Annotated[SecretStr, Field(max_length=200)]


class RefreshBody(Body):
    """A refresh token, which this uses up."""

    refresh_token: OpaqueToken


class PendingBody(Body):
    """The `mfa_token` of a sign-in that owes its second factor."""

    mfa_token: OpaqueToken


class CodeBody(PendingBody):
    """That, and a code of the authenticator app, or a recovery code."""

    code: Code


class OwnCodeBody(Body):
    """A code of the authenticator app, or a recovery code."""

    code: Code


class FactorBody(Body):
    """What to call the new factor."""

    name: Annotated[Line, StringConstraints(min_length=1)] = "Authenticator app"


class DirectoryLoginBody(LoginBody):
    """User name and password in a directory. Without ``realm`` it is the default directory's."""

    realm: Name | None = Field(None, examples=["corp"])


class PasswordBody(Body):
    """One's current password and the one to have."""

    current_password: PasswordField
    new_password: PasswordField


class InvitationBody(Body):
    """The token of an invitation and the password chosen."""

    token: Annotated[SecretStr, Field(max_length=200)]
    password: PasswordField


class UserBody(Body):
    """A new user. Without a password the answer holds an invitation."""

    username: UserName
    email: Email
    role: RoleName
    full_name: Line = ""
    mfa_enabled: bool = False
    password: PasswordField | None = None


class UserPatch(Body):
    """Changes to a user (JSON merge patch)."""

    is_active: bool = True
    role: RoleName = "viewer"
    email: Email = ""
    full_name: Line | None = None
    mfa_enabled: bool = False

    def patch(self) -> dict[str, Any]:
        """The members that were sent; a null full name is an empty one."""
        sent = self.model_dump(exclude_unset=True)
        if "full_name" in sent:
            sent["full_name"] = sent["full_name"] or ""
        return sent


RateLimit = Annotated[int, Field(ge=0, le=10_000_000, description="Requests per minute; 0 for no limit")]


class ApplicationBody(Body):
    """A new application. ``grants`` maps server names to the scopes it may ask for there."""

    name: Name
    description: Text = ""
    role: ApplicationRole = "viewer"
    grants: Grants = Field(default_factory=dict, examples=[{"payments": ["payments:read"]}])
    rate_limit: RateLimit | None = None


class ApplicationPatch(Body):
    """Changes to an application (JSON merge patch: a null grant removes that server's)."""

    description: Text | None = None
    role: ApplicationRole = "viewer"
    grants: GrantsPatch | None = None
    rate_limit: RateLimit | None = None
    owner: UserName | None = None
    is_active: bool = True

    def patch(self) -> dict[str, Any]:
        """The members that were sent, as RFC 7396 reads them."""
        return self.model_dump(exclude_unset=True)


def routes(
    login: LocalLogin,
    ldap_login: LdapLogin,
    sign_ins: SignIns,
    users: Users,
    invitations: Invitations,
    sessions: Sessions,
    applications: Applications,
    api_keys: ApiKeys,
    passkeys: Passkeys,
    cookies: CookieSessions,
) -> APIRouter:
    """The routes of identity over its services."""
    router = APIRouter(prefix="/api/v1")
    _auth_routes(router, login, users, invitations, sessions, cookies)
    _directory_routes(router, ldap_login, cookies)
    _continuing_routes(router, sign_ins, cookies)
    _factor_routes(router, sign_ins)
    passkeys_api.add_routes(router, passkeys, sign_ins, cookies)
    _session_routes(router, sessions, sign_ins)
    api_keys_api.add_routes(router, api_keys, sign_ins)
    _user_routes(router, users)
    _application_routes(router, applications)
    return router


def _auth_routes(
    router: APIRouter,
    login: LocalLogin,
    users: Users,
    invitations: Invitations,
    sessions: Sessions,
    cookies: CookieSessions,
) -> None:
    @router.post(
        "/auth/login/local",
        tags=["auth"],
        summary="Sign in by user name and password",
        responses=_NOT_LET_IN,
        dependencies=COUNTED,
    )
    async def sign_in(request: Request, response: Response, body: LoginBody) -> dict[str, Any]:
        """With `X-Bailiwick-Session: cookie` the session is put into cookies, and the answer holds no token."""
        never_store(response)
        context = context_of(request, None)
        signed_in = await login.sign_in(context, body.username, body.password.get_secret_value())
        return cookies.answer(request, response, signed_in)

    @router.post("/auth/logout", tags=["auth"], status_code=204, summary="Sign out: end this session")
    async def sign_out(request: Request, response: Response, caller: SignedInCaller) -> None:
        await sessions.end(context_of(request, caller), caller.session, owner=caller.name, sign_out=True)
        cookies.clear(request, response)

    @router.get("/auth/csrf", tags=["auth"], summary="The token that changes by a session cookie carry")
    async def csrf(request: Request, response: Response, _caller: AnyCaller) -> dict[str, Any]:
        """To be sent as `X-CSRF-Token`; null for a caller without a cookie, who needs none."""
        never_store(response)
        return {"csrf_token": cookies.csrf_token(request.scope) if cookies.by_cookie(request) else None}

    @router.get("/auth/me", tags=["auth"], summary="Who am I?")
    async def me(caller: AnyCaller) -> dict[str, Any]:
        user = await users.get(caller.zone, caller.name)
        return {**user.document(), "session_id": caller.session, "zone": caller.zone}

    @router.post("/auth/password", tags=["auth"], status_code=204, summary="Change one's own password")
    async def change_password(request: Request, caller: SignedInCaller, body: PasswordBody) -> None:
        await login.change_password(
            context_of(request, caller),
            caller.name,
            caller.session,
            body.current_password.get_secret_value(),
            body.new_password.get_secret_value(),
        )

    @router.post(
        "/auth/invitations/accept",
        tags=["auth"],
        summary="Choose a password by an invitation or a reset",
        responses=_NOT_LET_IN,
        dependencies=COUNTED,
    )
    async def accept_invitation(request: Request, body: InvitationBody) -> dict[str, Any]:
        token, password = body.token.get_secret_value(), body.password.get_secret_value()
        return {"username": await invitations.accept(context_of(request, None), token, password)}


def _directory_routes(router: APIRouter, login: LdapLogin, cookies: CookieSessions) -> None:
    @router.post(
        "/auth/login/ldap",
        tags=["auth"],
        summary="Sign in by a directory",
        responses=_NOT_LET_IN,
        dependencies=COUNTED,
    )
    async def sign_in(request: Request, response: Response, body: DirectoryLoginBody) -> dict[str, Any]:
        """Who comes first becomes a user, with the role of his groups; without a mapped group nothing is allowed."""
        never_store(response)
        password = body.password.get_secret_value()
        signed_in = await login.sign_in(context_of(request, None), body.username, password, body.realm)
        return cookies.answer(request, response, signed_in)


def _continuing_routes(router: APIRouter, sign_ins: SignIns, cookies: CookieSessions) -> None:
    @router.post("/auth/refresh", tags=["auth"], summary="Go on: the next tokens", responses=_NOT_LET_IN)
    async def refresh(request: Request, response: Response, body: RefreshBody | None = None) -> dict[str, Any]:
        """A refresh token works once. One used twice ends the session: somebody has a copy.

        Without a body it is that of the session's cookie, and the answer sets the next ones.
        """
        never_store(response)
        token = body.refresh_token.get_secret_value() if body is not None else cookies.refresh_token(request)
        if token is None:
            raise InvalidRequest("Send a refresh token.")
        return cookies.answer(request, response, await sign_ins.refresh(context_of(request, None), token))

    @router.post(
        "/auth/mfa",
        tags=["auth"],
        summary="Finish a sign-in by a second factor",
        responses=_NOT_LET_IN,
        dependencies=COUNTED,
    )
    async def answer(request: Request, response: Response, body: CodeBody) -> dict[str, Any]:
        never_store(response)
        token, code = body.mfa_token.get_secret_value(), body.code.get_secret_value()
        return cookies.answer(request, response, await sign_ins.answer(context_of(request, None), token, code))

    @router.post(
        "/auth/mfa/enrolment", tags=["auth"], summary="Enrol the factor that a sign-in needs", responses=_NOT_LET_IN
    )
    async def begin_enrolment(request: Request, response: Response, body: PendingBody) -> dict[str, Any]:
        never_store(response)
        token = body.mfa_token.get_secret_value()
        return (await sign_ins.begin_enrolment(context_of(request, None), token)).document()

    @router.post(
        "/auth/mfa/enrolment/confirm",
        tags=["auth"],
        summary="Confirm the factor by its first code, and sign in",
        responses=_NOT_LET_IN,
        dependencies=COUNTED,
    )
    async def finish_enrolment(request: Request, response: Response, body: CodeBody) -> dict[str, Any]:
        """The answer holds the recovery codes, which are told once."""
        never_store(response)
        token, code = body.mfa_token.get_secret_value(), body.code.get_secret_value()
        return cookies.answer(
            request, response, await sign_ins.finish_enrolment(context_of(request, None), token, code)
        )

    @router.post("/auth/step-up", tags=["auth"], summary="Prove it is still you (RFC 9470)", responses=_NOT_LET_IN)
    async def step_up(
        request: Request, response: Response, caller: SignedInCaller, body: OwnCodeBody
    ) -> dict[str, Any]:
        """The next access token of this session; its `acr` and `auth_time` say what was just proven."""
        never_store(response)
        signed_in = await sign_ins.step_up(context_of(request, caller), body.code.get_secret_value())
        return cookies.answer(request, response, signed_in)


def _factor_routes(router: APIRouter, sign_ins: SignIns) -> None:
    @router.get("/auth/factors", tags=["auth"], summary="One's second factors")
    async def list_factors(caller: SelfCaller) -> dict[str, Any]:
        return await sign_ins.own_factors.list(caller.zone, caller.name)

    @router.post("/auth/factors/totp", tags=["auth"], status_code=201, summary="Begin to enrol an authenticator app")
    async def add_totp(request: Request, response: Response, caller: SelfCaller, body: FactorBody) -> dict[str, Any]:
        never_store(response)
        await sign_ins.require_recent(caller)
        return (await sign_ins.own_factors.add_totp(context_of(request, caller), body.name)).document()

    @router.post("/auth/factors/totp/confirm", tags=["auth"], summary="Confirm the app by its first code")
    async def confirm_totp(
        request: Request, response: Response, caller: SelfCaller, body: OwnCodeBody
    ) -> dict[str, Any]:
        """With the first factor come recovery codes, which are told once."""
        never_store(response)
        await sign_ins.require_recent(caller)
        told = await sign_ins.own_factors.confirm_added(context_of(request, caller), body.code.get_secret_value())
        return {**await sign_ins.own_factors.list(caller.zone, caller.name), "recovery_codes": list(told)}

    @router.post("/auth/recovery-codes", tags=["auth"], summary="Fresh recovery codes; the earlier ones are void")
    async def renew_codes(request: Request, response: Response, caller: SelfCaller) -> dict[str, Any]:
        never_store(response)
        await sign_ins.require_recent(caller)
        return {"recovery_codes": list(await sign_ins.own_factors.renew_recovery_codes(context_of(request, caller)))}

    @router.delete("/auth/factors/{identifier}", tags=["auth"], status_code=204, summary="Remove one of one's factors")
    async def remove_factor(request: Request, caller: SelfCaller, identifier: IdPath) -> None:
        await sign_ins.require_recent(caller)
        await sign_ins.own_factors.remove_factor(context_of(request, caller), identifier)


def _session_routes(router: APIRouter, sessions: Sessions, sign_ins: SignIns) -> None:
    @router.get("/sessions", tags=["sessions"], summary="List one's sessions; administrators see everybody's")
    async def list_sessions(
        request: Request,
        caller: SelfCaller,
        username: Annotated[UserName | None, Query(description="Only this user's")] = None,
        ended: Annotated[bool, Query(description="Also those that are over")] = False,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        owner = username if caller.may(Permission.USERS_WRITE) else caller.name
        found, following = await sessions.list(zone_of(request), owner, after_id(cursor), limit, ended=ended)
        return page([session.document(caller.session) for session in found], following)

    @router.delete("/sessions/{identifier}", tags=["sessions"], status_code=204, summary="End a session")
    async def end_session(request: Request, caller: SelfCaller, identifier: IdPath) -> None:
        owner = None if caller.may(Permission.USERS_WRITE) else caller.name
        await sessions.end(context_of(request, caller), identifier, owner=owner)

    @router.delete(
        "/sessions", tags=["sessions"], summary="End all of one's other sessions, or another's, or everybody's"
    )
    async def end_sessions(
        request: Request,
        caller: SelfCaller,
        username: Annotated[UserName | None, Query(description="This user's, for administrators")] = None,
        everybody: Annotated[bool, Query(description="Those of the whole zone, for administrators")] = False,
    ) -> dict[str, int]:
        """The session that asks goes on; `POST /api/v1/auth/logout` ends it."""
        if everybody and username is not None:
            raise InvalidRequest("Name a user or everybody.")
        owner = None if everybody else username or caller.name
        if owner != caller.name:
            if not caller.may(Permission.USERS_WRITE):
                raise Denied(permission=str(Permission.USERS_WRITE))
            await sign_ins.require_privileged(caller, request.state.ip)
        return {"sessions_ended": await sessions.end_all(context_of(request, caller), owner=owner, but=caller.session)}


def _user_routes(router: APIRouter, users: Users) -> None:
    def answer(response: Response, user: User) -> dict[str, Any]:
        set_etag(response, user.version)
        return user.document()

    @router.get("/users", tags=["users"], summary="List users")
    async def list_users(
        request: Request, caller: UserReader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await users.list(zone_of(request), after_user_name(cursor), limit)
        return page([user.document() for user in found], following)

    @router.post("/users", tags=["users"], status_code=201, summary="Create a user")
    async def create_user(request: Request, response: Response, caller: UserWriter, body: UserBody) -> dict[str, Any]:
        password = body.password.get_secret_value() if body.password is not None else None
        new = NewUser(body.username, body.email, body.role, body.full_name, body.mfa_enabled, password)
        user, invitation = await users.create(context_of(request, caller), new)
        made = answer(response, user)
        if invitation is not None:
            never_store(response)
            made["invitation"] = invitation.document()
        return made

    @router.get("/users/{username}", tags=["users"], summary="Show a user")
    async def get_user(
        request: Request, response: Response, caller: UserReader, username: UserNamePath
    ) -> dict[str, Any]:
        return answer(response, await users.get(zone_of(request), username))

    @router.patch("/users/{username}", tags=["users"], summary="Change a user (JSON merge patch)", responses=WAITS)
    async def change_user(
        request: Request, response: Response, caller: UserWriter, username: UserNamePath, body: UserPatch
    ) -> dict[str, Any]:
        """To enable a disabled account takes two persons: 202 with the approval, and `is_active` still false."""
        context, guard = context_of(request, caller), version_guard(request)
        changed = await users.change(context, username, body.patch(), guard)
        if isinstance(changed, User):
            return answer(response, changed)
        response.status_code = 202
        user = await users.get(zone_of(request), username)
        return {**answer(response, user), "approval": changed.document()}

    @router.post("/users/{username}/invitation", tags=["users"], status_code=201, summary="Invite a user anew")
    async def invite_user(
        request: Request, response: Response, caller: UserWriter, username: UserNamePath
    ) -> dict[str, Any]:
        never_store(response)
        return {"invitation": (await users.invite(context_of(request, caller), username)).document()}

    @router.post(
        "/users/{username}/password-reset",
        tags=["users"],
        status_code=201,
        summary="End a user's password; a link for another",
    )
    async def reset_password(
        request: Request, response: Response, caller: UserWriter, username: NamePath
    ) -> dict[str, Any]:
        """The link is told once, works once, for a day. The person's sessions end, and the old password is void."""
        never_store(response)
        return {"reset": (await users.reset_password(context_of(request, caller), username)).document()}

    @router.delete("/users/{username}/mfa", tags=["users"], summary="Forget a user's second factors and end sessions")
    async def reset_mfa(request: Request, caller: UserWriter, username: UserNamePath) -> dict[str, Any]:
        return await users.reset_mfa(context_of(request, caller), username)

    @router.delete("/users/{username}", tags=["users"], status_code=204, summary="Delete a user with all he has")
    async def delete_user(request: Request, caller: UserWriter, username: UserNamePath) -> None:
        """His sessions, mandates and keys are accepted nowhere when this is answered; the evidence of him stays."""
        await users.delete(context_of(request, caller), username, version_guard(request))


def _application_routes(router: APIRouter, applications: Applications) -> None:
    def answer(response: Response, application: Application, secret: str | None = None) -> dict[str, Any]:
        set_etag(response, application.version)
        if secret is None:
            return application.document()
        never_store(response)
        return {**application.document(), "client_secret": secret}

    @router.get("/applications", tags=["applications"], summary="List applications")
    async def list_applications(
        request: Request, caller: ApplicationReader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await applications.list(zone_of(request), after_name(cursor), limit)
        return page([application.document() for application in found], following)

    @router.post("/applications", tags=["applications"], status_code=201, summary="Create an application")
    async def create_application(
        request: Request, response: Response, caller: ApplicationWriter, body: ApplicationBody
    ) -> dict[str, Any]:
        application, secret = await applications.create(
            context_of(request, caller),
            caller.role,
            body.name,
            description=body.description,
            role=body.role,
            grants=body.grants,
            rate_limit=body.rate_limit,
        )
        return answer(response, application, secret)

    @router.get("/applications/{name}", tags=["applications"], summary="Show an application")
    async def get_application(
        request: Request, response: Response, caller: ApplicationReader, name: NamePath
    ) -> dict[str, Any]:
        return answer(response, await applications.get(zone_of(request), name))

    @router.patch("/applications/{name}", tags=["applications"], summary="Change or disable an application")
    async def change_application(
        request: Request, response: Response, caller: ApplicationWriter, name: NamePath, body: ApplicationPatch
    ) -> dict[str, Any]:
        context, guard = context_of(request, caller), version_guard(request)
        return answer(response, await applications.change(context, caller.role, name, body.patch(), guard))

    @router.post("/applications/{name}/secret", tags=["applications"], summary="Rotate an application's secret")
    async def rotate_secret(
        request: Request, response: Response, caller: SecretKeeper, name: NamePath
    ) -> dict[str, Any]:
        context, guard = context_of(request, caller), version_guard(request)
        return answer(response, *await applications.rotate_secret(context, caller.role, name, guard))
