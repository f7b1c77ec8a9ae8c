"""The policy engine: what it must answer, and the adapter for regorus.

Set semantics: a request is allowed when any package's ``allow`` is true and there is no ``deny`` reason. ``true``
allows; ``false`` and undefined do not; anything else is an error, and an error never allows.

Nothing here protects the process from a hostile policy. Only sets that admission accepted may be compiled
(:mod:`bailiwick.policy.admission`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import regorus

from bailiwick.kernel.errors import BailiwickError
from bailiwick.policy.rego_analysis import RESERVED_PACKAGE, Analysis, PackageAnswers, analyse, set_hash, wrapper
from bailiwick.policy.rego_syntax import EngineMessage, Finding, Module, Path, PolicyRefused, engine_message

EngineKind = Literal["compiled", "interpreted"]

MAX_INPUT_BYTES = 256 * 1024
_OUT = f"data.{RESERVED_PACKAGE[0]}.out"
_REMEMBERED_ANSWERS = 1024
_CONFLICTS = ("rule conflicts with rule", "multiple outputs", "generated multiple times")


class PolicyError(BailiwickError):
    """The policy could not be evaluated, which denies. ``fault`` is a key of ``kernel.errors.REASONS``.

    ``said`` is the engine's own message, for the author of the policy alone: it may quote the input.
    """

    default_reason = "policy_error"
    fault = "policy_runtime_error"

    def __init__(self, detail: str = "", *, said: EngineMessage | None = None, rule: str | None = None) -> None:
        super().__init__(detail)
        self.said = said
        self.rule = rule


class PolicyResultError(PolicyError):
    """``allow`` or ``deny`` is worth something it must not be."""

    fault = "policy_result_type"


class PolicyInstructionLimit(PolicyError):
    """The compiled machine stopped at its limit of 25,000 instructions: index data by role or key."""

    fault = "policy_instruction_limit"


class PolicyConflict(PolicyError):
    """Two rules gave one name, function or key different values."""

    fault = "policy_conflict"


class PolicyEngineCrashed(PolicyError):
    """The engine panicked. The set is not used again."""

    fault = "policy_engine_crashed"


class WrongThread(RuntimeError):
    """A compiled set was used by another thread than the one that compiled it, which its engine cannot bear."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a set answers: ``deny`` holds the reasons in order, ``allowed_by`` the packages whose allow is true."""

    allow: bool
    deny: tuple[str, ...]
    allowed_by: tuple[str, ...]


class CompiledSet(Protocol):
    """A policy set ready to answer, bound to the thread that compiled it."""

    @property
    def set_hash(self) -> str:
        """The content address of modules and data."""

    @property
    def engine(self) -> str:
        """Which engine runs it, for people: ``regorus/compiled``."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages of the set, dotted."""

    @property
    def input_paths(self) -> tuple[Path, ...]:
        """What of the input the set can read; ``((),)`` is all of it."""

    @property
    def cacheable(self) -> bool:
        """Whether the answer depends on the input alone."""

    def evaluate(self, document: Mapping[str, Any] | bytes) -> Outcome:
        """Decides. ``document`` is the input as a tree of JSON values, or encoded. Raises :class:`PolicyError`."""

    def evaluate_rule(self, path: str, document: Mapping[str, Any] | bytes) -> Any:
        """The value of one rule (``data.sark.rate_limiting.limit``), or :data:`msgspec.UNSET` where undefined.

        The caller checks the type. Raises :class:`PolicyError`, and LookupError for a rule the set does not have.
        """


class PolicyEngine(Protocol):
    """Makes sets ready to answer."""

    def compile(self, modules: Sequence[Module], data: Mapping[str, Any]) -> CompiledSet:
        """Raises :class:`bailiwick.policy.rego_syntax.PolicyRefused` for a set that must not be run."""


class RegorusEngine:
    """regorus in this process. ``kind`` forces one of its two machines; by default the compiled one where it may."""

    def __init__(self, kind: EngineKind | None = None) -> None:
        self._kind = kind

    def compile(self, modules: Sequence[Module], data: Mapping[str, Any]) -> RegorusSet:
        """Examines and compiles a set. Raises :class:`PolicyRefused`."""
        return self.compile_analysed(analyse(modules, data), modules, data)

    def compile_analysed(self, analysis: Analysis, modules: Sequence[Module], data: Mapping[str, Any]) -> RegorusSet:
        """As :meth:`compile`, where the examination was made already."""
        if analysis.findings:
            raise PolicyRefused(analysis.findings)
        return RegorusSet(analysis, set_hash(modules, data), msgspec.json.encode(data).decode(), self._kind)


class RegorusSet:
    """A set compiled by regorus, for one thread."""

    def __init__(self, analysis: Analysis, content: str, data: str, kind: EngineKind | None) -> None:
        self.set_hash = content
        self.packages = tuple(".".join(package.name) for package in analysis.packages)
        self.input_paths = analysis.input_paths
        self.cacheable = not analysis.reads_time
        self.not_compiled_because = analysis.not_compiled_because
        self._thread = threading.get_ident()
        self._encode = msgspec.json.Encoder().encode
        self._analysis = analysis
        self._data = data
        self._answers = _Answers(analysis.packages)
        self._machines: dict[str, _Machine] = {}
        self._broken = False
        self._decide = self._machine(wrapper(analysis.packages), _OUT, kind)
        self.kind: EngineKind = self._decide.kind

    @property
    def engine(self) -> str:
        """Which of the two machines of regorus runs the set."""
        return f"regorus/{self.kind}"

    def evaluate(self, document: Mapping[str, Any] | bytes) -> Outcome:
        """Decides. Raises :class:`PolicyError`, :class:`WrongThread`."""
        return self._answers.read(self._run(self._decide, document))

    def evaluate_rule(self, path: str, document: Mapping[str, Any] | bytes) -> Any:
        """The value of one rule. A rule of ``data`` that is not a rule of the set raises LookupError."""
        machine = self._machines.get(path)
        if machine is None:
            names = {"data." + ".".join(m.package + rule.path) for m in self._analysis.modules for rule in m.rules}
            if path not in names:
                raise LookupError(f"the policy set has no rule {path}")
            # a list, so that undefined and the string "<undefined>" stay apart
            text = f"package {RESERVED_PACKAGE[0]}\nimport rego.v1\nout := [x | x = {path}]\n"
            machine = self._machines[path] = self._machine(Module("rule.rego", text), _OUT, self.kind)
        answer = msgspec.json.decode(self._run(machine, document))
        if not isinstance(answer, list) or len(answer) > 1:
            raise PolicyResultError("a rule has more than one value")
        return answer[0] if answer else msgspec.UNSET

    def _run(self, machine: _Machine, document: Mapping[str, Any] | bytes) -> str:
        if threading.get_ident() != self._thread:
            raise WrongThread("this policy set belongs to another thread; compile one for each")
        if self._broken:
            raise PolicyEngineCrashed("the engine crashed before")
        try:
            encoded = document if isinstance(document, bytes) else self._encode(document)
            if len(encoded) > MAX_INPUT_BYTES:
                raise PolicyError("the input is too large")
            return machine.run(encoded.decode())
        except (PolicyError, KeyboardInterrupt, SystemExit):
            raise
        except RuntimeError as error:
            said = engine_message(error)
            if "maximum instruction limit" in said.text:
                raise PolicyInstructionLimit("a decision takes more than 25,000 instructions") from None
            if any(mark in said.text for mark in _CONFLICTS):
                raise PolicyConflict(said=said) from None
            raise PolicyError(said=said) from None
        except (TypeError, ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
            raise PolicyError("the input is not a tree of JSON values") from None
        except BaseException as panic:  # noqa: BLE001
            # pyo3's PanicException is no Exception; the engine's state is unknown after it
            self._broken = True
            raise PolicyEngineCrashed(type(panic).__name__) from None

    def _machine(self, asking: Module, entry: str, kind: EngineKind | None) -> _Machine:
        compiled = self._analysis.compiled
        if compiled is not None and kind != "interpreted":
            try:
                return _CompiledMachine([*compiled, asking], self._data, entry)
            except RuntimeError as error:
                self.not_compiled_because = engine_message(error).text
        if kind == "compiled":
            raise ValueError(f"the set cannot be compiled: {self.not_compiled_because}")
        if self._analysis.misread:
            raise PolicyRefused(self._analysis.misread)
        return _InterpretedMachine(self._analysis, asking, self._data, entry)


class _Machine(Protocol):
    kind: EngineKind

    def run(self, document: str) -> str: ...


class _CompiledMachine:
    kind: EngineKind = "compiled"

    def __init__(self, modules: Sequence[Module], data: str, entry: str) -> None:
        sources = [(module.name, module.text) for module in modules]
        self._vm = regorus.Rvm()
        self._vm.load_program(regorus.Program.compile_from_modules(data, sources, [entry]))
        self._vm.set_data_json(data)
        self._set_input = self._vm.set_input_json
        self._execute = self._vm.execute

    def run(self, document: str) -> str:
        self._set_input(document)
        answer: str = self._execute()
        return answer


class _InterpretedMachine:
    kind: EngineKind = "interpreted"

    def __init__(self, analysis: Analysis, asking: Module, data: str, entry: str) -> None:
        self._entry = entry
        self._engine = regorus.Engine()
        try:
            for module in analysis.modules:
                self._engine.set_rego_v0(module.dialect == "v0")
                self._engine.add_policy(module.module.name, module.module.text)
            self._engine.set_rego_v0(False)
            self._engine.add_policy(asking.name, asking.text)
            self._engine.add_data_json(data)
        except RuntimeError as error:
            said = engine_message(error)
            finding = Finding(said.file or analysis.modules[0].module.name, said.line, "policy_syntax_error", said.text)
            raise PolicyRefused((finding,)) from None

    def run(self, document: str) -> str:
        self._engine.set_input_json(document)
        answer: str = self._engine.eval_rule_as_json(self._entry)
        return answer


class _Answers:
    """Reads what the generated rule answers, strictly, and remembers the readings: few answers recur often."""

    def __init__(self, packages: Sequence[PackageAnswers]) -> None:
        self._allowing = [".".join(package.name) for package in packages if package.allow]
        self._denying = [".".join(package.name) for package in packages if package.deny]
        self._known: dict[str, Outcome] = {}

    def read(self, answer: str) -> Outcome:
        """Raises :class:`PolicyResultError`."""
        known = self._known.get(answer)
        if known is None:
            known = self._read(answer)
            if len(self._known) >= _REMEMBERED_ANSWERS:
                self._known.clear()
            self._known[answer] = known
        return known

    def _read(self, answer: str) -> Outcome:
        answers = msgspec.json.decode(answer)
        if not isinstance(answers, list) or len(answers) != len(self._allowing) + len(self._denying):
            raise PolicyResultError("the policy set did not answer")
        allowed_by = []
        for package, values in zip(self._allowing, answers, strict=False):
            value = _single(values, package, "allow")
            if value is True:
                allowed_by.append(package)
            elif value is not False and value is not msgspec.UNSET:
                raise PolicyResultError(f"data.{package}.allow is neither true nor false", rule=f"data.{package}.allow")
        reasons: dict[str, None] = {}
        for package, values in zip(self._denying, answers[len(self._allowing) :], strict=True):
            value = _single(values, package, "deny")
            if value is True:
                reasons["policy_denied"] = None
            elif isinstance(value, list) and all(isinstance(reason, str) for reason in value):
                reasons.update(dict.fromkeys(value))
            elif value is not False and value is not msgspec.UNSET:
                message = f"data.{package}.deny is neither a boolean nor a collection of strings"
                raise PolicyResultError(message, rule=f"data.{package}.deny")
        return Outcome(bool(allowed_by) and not reasons, tuple(reasons), tuple(allowed_by))


def _single(values: object, package: str, rule: str) -> object:
    if not isinstance(values, list) or len(values) > 1:
        raise PolicyResultError(f"data.{package}.{rule} has more than one value")
    return values[0] if values else msgspec.UNSET
