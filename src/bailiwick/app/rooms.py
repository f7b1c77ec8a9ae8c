"""The services of all rooms, built once in the order in which they stand on each other."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from bailiwick.app.archive import Archive, build_archive
from bailiwick.app.assurance import Assurance, build_assurance, ship
from bailiwick.app.continuing import build_continuing
from bailiwick.app.fencing import Fence
from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.app.handover.gateway_canary import GRANT
from bailiwick.app.kek import KekRotation
from bailiwick.app.packs import pack_requests
from bailiwick.app.siem import address_check, reach_of
from bailiwick.app.testers import testers_of
from bailiwick.app.worker_state import WorkerState
from bailiwick.assurance.operations import KeyRotation, Operation, PolicyRollback, UserUnlock
from bailiwick.assurance.rotators import ApiKeySecrets, ApplicationSecrets, KeyEncryptionKey, SigningKeys
from bailiwick.assurance.secret_rotation import Rotator
from bailiwick.authority.authenticate import Authenticator
from bailiwick.authority.emergency import EmergencyRotation
from bailiwick.authority.issuer import Issuer
from bailiwick.authority.revocation import Revocations, Settlement
from bailiwick.authority.rfc8693 import TokenRequest
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.cold import ColdSearch
from bailiwick.evidence.continuing import Continuing
from bailiwick.evidence.drained import drained
from bailiwick.evidence.events import Context
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.pack_requests import PackRequests
from bailiwick.evidence.recording import WorkerEvidence
from bailiwick.evidence.search import Search
from bailiwick.evidence.siem.operations import Operations
from bailiwick.evidence.siem.sinks import Sinks
from bailiwick.evidence.spool import Spool
from bailiwick.evidence.tail import Tails
from bailiwick.handover.incidents.operations import LastKnownGood, RevokeAuthority
from bailiwick.identity.api_keys import ApiKeys
from bailiwick.identity.applications import Applications
from bailiwick.identity.bootstrap import create_first_administrator
from bailiwick.identity.breached import BreachList
from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.identity.groups import Groups
from bailiwick.identity.hashers import Hashers
from bailiwick.identity.imports import Imports
from bailiwick.identity.invitations import Invitations
from bailiwick.identity.login.admission import Admissions
from bailiwick.identity.login.ldap import Directories, LdapLogin
from bailiwick.identity.login.local import LocalLogin
from bailiwick.identity.login.oidc import OidcLogin
from bailiwick.identity.login.oidc_client import ProviderClients
from bailiwick.identity.login.passkeys import Passkeys
from bailiwick.identity.login.saml import SamlLogin
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.identity.passwords import COST, Passwords, VerifiedSecrets
from bailiwick.identity.persons import Persons
from bailiwick.identity.providers import Providers
from bailiwick.identity.reports import Reports
from bailiwick.identity.scim.groups import ScimGroups
from bailiwick.identity.scim.users import ScimUsers
from bailiwick.identity.sessions import Sessions
from bailiwick.identity.testing import Testers
from bailiwick.identity.users import Users
from bailiwick.inventory.credentials import Credentials
from bailiwick.inventory.resolver import Resolver
from bailiwick.inventory.servers import Servers
from bailiwick.inventory.zones import Zones
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.ratelimit import HotLimits
from bailiwick.policy.admission import Admission
from bailiwick.policy.comparison import KnownPrincipal, KnownServer, Surroundings
from bailiwick.policy.known_good import KnownGood
from bailiwick.policy.policies import Policies
from bailiwick.policy.trial import Trials


@dataclass(frozen=True, slots=True)
class Rooms:
    """Every service a worker offers."""

    authenticator: Authenticator
    issuer: Issuer
    revocations: Revocations
    rotation: EmergencyRotation
    evidence: WorkerEvidence
    search: Search
    tails: Tails
    head_files: HeadFiles
    sinks: Sinks
    siem: Operations
    archive: Archive
    continuing: Continuing
    cookies: CookieSessions
    login: LocalLogin
    sign_ins: SignIns
    passkeys: Passkeys
    passwords: Passwords
    users: Users
    invitations: Invitations
    sessions: Sessions
    applications: Applications
    api_keys: ApiKeys
    providers: Providers
    testers: Testers
    directories: Directories
    admissions: Admissions
    ldap_login: LdapLogin
    oidc: OidcLogin
    saml: SamlLogin
    oidc_clients: ProviderClients
    groups: Groups
    reports: Reports
    scim_users: ScimUsers
    scim_groups: ScimGroups
    zones: Zones
    servers: Servers
    credentials: Credentials
    policies: Policies
    known_good: KnownGood
    evidence_records: EvidenceRecords
    packs: PackRequests
    assurance: Assurance

    def replace_sealer(self, sealer: Sealer) -> None:
        """Hand the KEKs as they are after a rotation to everybody who seals."""
        for holder in (
            self.evidence,
            self.search,
            self.sinks,
            self.sign_ins,
            self.providers,
            self.credentials,
            self.policies,
        ):
            holder.replace_sealer(sealer)
        for replace in self.assurance.house.on_sealer:
            replace(sealer)


def build(base: Foundations, state: WorkerState, spool: Spool, limits: HotLimits) -> Rooms:
    """Build the rooms of a worker on its memory, its spool and the counters of its machine."""
    settings, clock, ids, recorder, database = base.settings, base.clock, base.ids, base.recorder, base.database
    evidence = WorkerEvidence(spool, base.sealer, clock)
    authenticator = Authenticator(
        state.store, clock, feed_age=state.reader.age, freshness_limit_s=settings.freshness_limit_s
    )
    revocations = Revocations(
        database,
        clock,
        recorder,
        longest_mandate=timedelta(seconds=settings.mandate_ttl_s),
        longest_session=timedelta(seconds=settings.session_ttl_s),
        freshness_limit_s=settings.freshness_limit_s,
        fence_after_s=settings.fence_after_s,
        fence=Fence(base.layout.control_socket),
        poll_self=state.poll,
        observe=_revocation_observer(base),
        count=_revocation_counter(base),
    )
    breached = settings.breached_passwords
    passwords = Passwords(BreachList(breached) if breached is not None else None, hashing=Hashers(COST))
    applications = Applications(
        database, clock, ids, recorder, passwords, VerifiedSecrets(passwords, os.urandom(32)), revocations
    )
    issuer = Issuer(
        state.store,
        authenticator,
        state.decider,
        applications,
        evidence.event,
        recorder,
        clock,
        ids,
        revision=lambda: state.reader.revision,
        mandate_ttl_s=settings.mandate_ttl_s,
        observe=lambda outcome, reason: base.metrics.mandates_issued.inc() if outcome == "issued" else None,
        limit=lambda application: limits.require("token", application.id, application.rate_limit),
    )
    archive = build_archive(settings, base.layout, database, clock, ids, recorder)
    records = EvidenceRecords(clock, recorder)
    search = Search(database, base.sealer, ColdSearch(archive.cold, ColdEvents.open_parts))
    users = Users(database, clock, ids, recorder, settings, passwords, revocations, archive.quorum)
    groups = Groups(database, clock, ids, recorder, revocations)
    sign_ins = SignIns(database, clock, ids, recorder, settings, base.sealer, issuer, revocations)
    resolver = Resolver(database, clock, recorder, settings)
    providers = Providers(database, clock, ids, recorder, base.sealer)
    admissions = Admissions(database, clock, ids, recorder, sign_ins, revocations)
    directories = Directories(providers, resolver, clock)
    sessions = Sessions(database, clock, recorder, revocations)
    oidc_clients = ProviderClients(reach_of(resolver), clock)

    async def arrived() -> bool:
        return await drained(database, base.layout.spool)

    rotation = EmergencyRotation(
        database,
        state.keys,
        revocations,
        search,
        clock,
        mandate_ttl_s=settings.mandate_ttl_s,
        drained=arrived,
        count=_revocation_counter(base),
    )
    policies = Policies(
        database,
        recorder,
        clock,
        base.sealer,
        Admission(),
        Trials(),
        archive.quorum,
        settle=revocations,
        surroundings=surroundings_of(state),
    )
    operations: list[Operation] = [
        PolicyRollback(policies),
        KeyRotation(rotation),
        UserUnlock(users),
        LastKnownGood(policies),
        RevokeAuthority(database, revocations),
    ]

    api_keys = ApiKeys(database, clock, ids, recorder, revocations)
    file = kek_file(settings, base.layout)
    rotators: dict[str, Rotator] = {
        "application": ApplicationSecrets(database, clock, applications),
        "api-key": ApiKeySecrets(database, clock, api_keys),
        "signing-key": SigningKeys(database, clock, state.keys, rotation),
        "kek": KeyEncryptionKey(clock, file.load, KekRotation(database, recorder, file, revocations, arrived).rotate),
    }

    mint = _canary_mandates(state, issuer)
    assurance = build_assurance(base, archive.quorum, records, operations, rotators, mint)

    async def administrator(tx: Transaction, zone: str) -> str:
        await ship(assurance.house.books, tx, zone)
        return await create_first_administrator(tx, zone, clock=clock, ids=ids, recorder=recorder, passwords=passwords)

    return Rooms(
        authenticator=authenticator,
        issuer=issuer,
        revocations=revocations,
        rotation=rotation,
        evidence=evidence,
        search=search,
        tails=Tails(database),
        head_files=HeadFiles(base.layout.heads),
        sinks=Sinks(database, clock, ids, recorder, base.sealer, address_check(resolver)),
        siem=Operations(database, clock, recorder, reads_cold=True),
        archive=archive,
        continuing=build_continuing(settings, base.layout, database, clock, recorder, archive.quorum, archive.cold),
        cookies=CookieSessions(settings, ids),
        login=LocalLogin(database, clock, recorder, passwords, sign_ins, revocations),
        sign_ins=sign_ins,
        passkeys=Passkeys(database, clock, ids, recorder, settings, sign_ins),
        passwords=passwords,
        providers=providers,
        testers=testers_of(directories, oidc_clients, providers, settings, reach_of(resolver), clock),
        directories=directories,
        admissions=admissions,
        ldap_login=LdapLogin(database, clock, recorder, providers, admissions, directories),
        oidc=OidcLogin(
            database,
            clock,
            ids,
            recorder,
            settings,
            providers,
            oidc_clients,
            admissions,
            sessions,
            revocations,
        ),
        oidc_clients=oidc_clients,
        saml=SamlLogin(database, clock, ids, recorder, settings, providers, admissions, sessions, revocations),
        users=users,
        invitations=Invitations(database, clock, recorder, passwords, revocations),
        sessions=sessions,
        applications=applications,
        api_keys=api_keys,
        groups=groups,
        reports=Reports(database, clock, recorder, Persons()),
        scim_users=ScimUsers(database, users, Imports(database, clock, ids, recorder)),
        scim_groups=ScimGroups(database, groups),
        zones=Zones(database, clock, recorder, state.keys, revocations, administrator),
        servers=Servers(database, clock, ids, recorder, settings, resolver, revocations),
        credentials=Credentials(database, clock, ids, recorder, base.sealer),
        policies=policies,
        known_good=KnownGood(database, recorder, clock, archive.quorum),
        evidence_records=records,
        packs=pack_requests(base),
        assurance=assurance,
    )


def _canary_mandates(state: WorkerState, issuer: Issuer) -> Callable[[str, str, str, str], Awaitable[str]]:
    """Mandates for a canary, by all the rules but the application's secret."""

    async def mint(zone: str, application: str, server: str, scope: str) -> str:
        known = state.store.current.zone(zone)
        found = next((each for each in known.applications.values() if each.name == application), None)
        if found is None or not found.is_active:
            raise NotFound(f"There is no active application {application}.")
        _, token = await issuer.issue(known, found, TokenRequest(GRANT, server, (scope,)), Context(zone))
        return token

    return mint


def _revocation_observer(base: Foundations) -> Callable[[Settlement], None]:
    def observe(settlement: Settlement) -> None:
        base.metrics.revocation_seconds.observe(settlement.took_ms / 1000)
        for _ in settlement.fenced:
            base.metrics.workers_fenced.inc()

    return observe


def _revocation_counter(base: Foundations) -> Callable[[str], None]:
    return lambda kind: base.metrics.revocations.labels(kind).inc()


def surroundings_of(state: WorkerState) -> Callable[[str], Surroundings]:
    """Who and what a zone has, for comparing what two policy sets allow."""

    def surroundings(zone: str) -> Surroundings:
        known = state.store.current.zones.get(zone)
        if known is None:
            return Surroundings()
        users = [
            KnownPrincipal("user", user.username, user.username, user.role, {})
            for user in known.users.values()
            if user.is_active
        ]
        applications = [
            KnownPrincipal("application", app.id, app.name, app.role, {n: sorted(s) for n, s in app.grants.items()})
            for app in known.applications.values()
            if app.is_active
        ]
        servers = [
            KnownServer(
                server.name,
                server.tags,
                [(op.method, op.path, op.scope) for op in (server.binding.operations if server.binding else ())],
            )
            for server in known.servers.values()
        ]
        return Surroundings([*users, *applications], servers)

    return surroundings
