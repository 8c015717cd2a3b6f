"""The loader: arguments, environment and secret files to Settings, or to every fault at once."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from job import redaction
from job.errors import Fault, UsageError
from job.settings import checks
from job.settings.checks import RawText
from job.settings.command_options import Arguments, describe_unknown
from job.settings.options import OPTIONS, PREFIX, Option, Settings, options_of
from job.tables import is_table_name
from job.template import CODE_PLACEHOLDERS, NO_PLACEHOLDER, OTHER_PLACEHOLDERS

T = TypeVar("T")

_INJECTED = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST=.*|SERVICE_PORT(?:_\w+)?=[0-9]+|PORT=(?:tcp|udp|sctp)://.*"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?=.*)",
    re.ASCII,
)
"""What Kubernetes adds for each Service ("Accessing the Service"); one may be called flagjob or flagjob-metrics."""
_DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


def load_options(table: type[T], arguments: Arguments) -> T:
    """Return the options of serve or simulate; raise UsageError with every fault. The environment does not count."""
    faults = list(arguments.faults)
    parsed: dict[str, Any] = {}
    for option in options_of(table):
        text = arguments.texts.get(option.name)
        raw = None if text is None else RawText(option.flag, text)
        parsed[option.name] = _parse(option, raw, faults)
    if faults:
        raise UsageError(*faults)
    return table(**parsed)


def load(arguments: Arguments, environ: Mapping[str, str]) -> Settings:
    """Return the settings of a run; raise UsageError with every fault.

    Reads the files that settings name, and changes nothing.
    """
    return _Loader(arguments, environ).load()


class _Loader:
    """One pass over all settings; it collects faults as it goes, so that none hides another."""

    def __init__(self, arguments: Arguments, environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = environ
        self._faults = list(arguments.faults)
        self._raw: dict[str, RawText] = {}

    def load(self) -> Settings:
        for option in OPTIONS:
            raw = self._find(option)
            if raw is not None:
                self._raw[option.name] = raw
        parsed: dict[str, Any] = {}
        for option in OPTIONS:
            parsed[option.name] = _parse(option, self._raw.get(option.name), self._faults)
        parsed["termination_log"] = parsed["termination_log"] or checks.existing(_DEFAULT_TERMINATION_LOG)
        valid = {name: raw for name, raw in self._raw.items() if parsed[name] is not None}
        headers, header_faults = checks.read_headers(valid.get("headers_file"))
        digests, digest_faults = checks.read_checksums(valid.get("checksums"))
        self._faults += checks.check_input_files(valid)
        self._faults += checks.check_certificates(valid)
        self._faults += checks.check_output_files(valid)
        report = valid.get("report")
        self._faults += checks.report_faults(report.name, report.text) if report else []
        self._faults += [*header_faults, *digest_faults]
        self._faults += checks.check_proxies(self._environ)
        self._faults += checks.check_shards(self._raw, parsed)
        self._faults += checks.check_sets(self._raw, parsed)
        self._faults += checks.check_bucket(valid)
        self._faults += self._template_faults(parsed)
        self._faults += checks.check_contradictions(self._raw, has_codes=bool(self._arguments.codes))
        unset_origin = self._unset_origin()
        self._faults += _unknown_variables(self._environ)
        if self._faults:
            raise UsageError(*self._faults)
        codes = self._arguments.codes
        if codes == ("-",):
            codes = ()
            parsed["codes"] = None
            parsed["codes_file"] = "-"
        return Settings(
            arguments=codes,
            dry_run=self._arguments.dry_run,
            verbose=self._arguments.verbose,
            secret_headers=headers,
            expected_digests=digests,
            unset_origin=unset_origin,
            secrets=tuple(filter(None, checks.secrets(parsed, headers, self._environ))),
            changed=self._changed(),
            **parsed,
        )

    def _find(self, option: Option) -> RawText | None:
        """Return the text of an option: from the command line, else from its variables, else from its secret file."""
        text = self._arguments.texts.get(option.name)
        if text is not None:
            return RawText(option.flag, text)
        for variable in (option.variable, *option.fallback_variables):
            text = self._read_variable(variable, option)
            if text:
                return RawText(variable, text)
        return self._read_secret(option) if option.secret else None

    def _read_variable(self, variable: str, option: Option) -> str:
        """Return the text of a variable without blanks at its ends: a file's last newline is easily copied with it."""
        text = self._environ.get(variable, "").strip()
        if not text and option.must_not_be_empty and variable in self._environ:
            problem = "is set but empty: give it a value, or do not set it"
            self._faults.append(Fault(variable, self._environ[variable], problem))
        return text

    def _read_secret(self, option: Option) -> RawText | None:
        variable = f"{option.variable}_FILE"
        path = self._read_variable(variable, option)
        if not path:
            return None
        try:
            return RawText(variable, checks.read_text(path).strip())
        except ValueError as error:
            self._faults.append(Fault(variable, redaction.path(path), str(error)))
            return None

    def _template_faults(self, parsed: Mapping[str, Any]) -> Iterator[Fault]:
        """Yield the faults of placeholders that no item has; what a row has is known when the table is read."""
        url = parsed["url"]
        file = parsed["file"]
        is_url_wrong = "url" in self._raw and url is None
        if is_url_wrong or self._may_be_table():
            return
        known = url.known_placeholders if url else CODE_PLACEHOLDERS
        if url and not known.issuperset(url.placeholders):
            raw = self._raw["url"]
            yield Fault(raw.name, redaction.url(raw.text), NO_PLACEHOLDER)
        elif file and not file.placeholders <= known:
            names = " or ".join(f"{{{name}}}" for name in sorted(known, reverse=True))
            raw = self._raw["file"]
            problem = f"must hold {names}, as the URL does; {OTHER_PLACEHOLDERS}"
            yield Fault(raw.name, redaction.plain(raw.text), problem)

    def _unset_origin(self) -> Fault | None:
        """Return the fault of a run to which nobody says where the files are; a list may still do so by its rows."""
        fault = next(checks.check_demonstration(self._raw, self._environ), None)
        codes = self._arguments.codes
        has_list = codes == ("-",) if codes else "codes_file" in self._raw
        if fault and not has_list:
            self._faults.append(fault)
        return fault

    def _may_be_table(self) -> bool:
        """Return whether the list may have a header, which names further placeholders."""
        codes = self._arguments.codes
        path = self._raw.get("codes_file")
        if codes or path is None:
            return codes == ("-",)
        return path.text == "-" or is_table_name(path.text) or not Path(path.text).is_file()

    def _changed(self) -> dict[str, str]:
        """Return the redacted texts that differ from the defaults, by the option's name."""
        changed: dict[str, str] = {}
        for option in OPTIONS:
            raw = self._raw.get(option.name)
            if raw and raw.text != option.default:
                changed[option.name] = option.redact(raw.text)
        return changed


def _parse(option: Option, raw: RawText | None, faults: list[Fault]) -> object:
    """Return the value of an option; append a fault and return None if its text is invalid."""
    if raw is None:
        return option.parse(option.default) if option.default else option.absent_value
    try:
        return option.parse(raw.text)
    except ValueError as error:
        faults.append(Fault(raw.name, option.redact(raw.text), str(error)))
        return None


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Fault]:
    """Yield a fault for each FLAGJOB_ variable that no option has: a misspelt one must not be ignored silently."""
    known = {option.variable for option in OPTIONS} | {f"{option.variable}_FILE" for option in OPTIONS if option.secret}
    for name in sorted(environ):
        is_injected = _INJECTED.fullmatch(f"{name}={environ[name]}")
        if name.startswith(PREFIX) and name not in known and not is_injected:
            problem = describe_unknown("setting", name, known)
            yield Fault(redaction.printable(name), None, problem)  # without the value, which may be a secret
