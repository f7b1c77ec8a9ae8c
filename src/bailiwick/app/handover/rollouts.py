"""Rollouts in an installation."""

from __future__ import annotations

from dataclasses import replace

from bailiwick.app.assurance.probes import means_of
from bailiwick.app.assurance.slo import services_of
from bailiwick.app.house import House, Part
from bailiwick.app.settling import settler
from bailiwick.assurance.rollout_states import ROLLOUT
from bailiwick.handover.rollouts import api
from bailiwick.handover.rollouts.actions import Actions, Tools
from bailiwick.handover.rollouts.chapter import chapter
from bailiwick.handover.rollouts.engine import Engine, Ports
from bailiwick.handover.rollouts.evidence import KeptRenderings, Proof
from bailiwick.handover.rollouts.plans import KINDS
from bailiwick.handover.rollouts.programs import Programs
from bailiwick.handover.rollouts.records import Ledger
from bailiwick.handover.rollouts.service import Rollouts, Sources
from bailiwick.identity.persons import Persons
from bailiwick.policy.admission import Admission
from bailiwick.policy.policies import Policies
from bailiwick.policy.trial import Trials


def build(house: House) -> Part:
    """The part. Its loop is the work role's."""
    base = house.base
    settings = base.settings
    programs = Programs(settings.rollout_programs, settings.rollout_directory)
    ledger, proof = Ledger(base.clock, base.recorder), Proof(base.clock, house.records)
    policies = Policies(
        base.database, base.recorder, base.clock, base.sealer, Admission(), Trials(), house.quorum, settle=settler(base)
    )
    house.on_sealer.append(policies.replace_sealer)
    tools = Tools(
        base.database,
        base.clock,
        programs,
        replace(means_of(base), programs=()),
        house.books,
        house.verdicts,
        KeptRenderings(base.database, base.clock, house.records),
        policies,
        house.weights,
        house.quorum,
    )
    ports = Ports(house.alerts, house.tasks, house.verdicts, house.canaries, house.environments)
    engine = Engine(base.database, base.clock, ledger, house.books, proof, Actions(tools), ports)
    budgets = services_of(house, own=None).levels
    sources = Sources(house.readiness, house.canaries, house.open_incidents, house.environments, budgets, house.waivers)
    rollouts = Rollouts(
        base.database, base.clock, base.ids, house.books, ledger, proof, engine, house.tasks, sources, Persons()
    )
    house.rollouts = rollouts
    house.chapters["rollouts"] = chapter
    return Part(
        routers=lambda: [api.routes(base.database, house.books, rollouts)],
        loops={"rollouts": engine.run},
        machines=[ROLLOUT],
    )


__all__ = ["KINDS", "build"]
