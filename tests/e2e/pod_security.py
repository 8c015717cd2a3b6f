"""A checker for the "restricted" Pod Security Standard, for Linux pods.

Source: kubernetes.io, Concepts, Security, Pod Security Standards; one function for a control or two, profile of 1.37.
"""

from collections.abc import Callable, Iterator, Mapping

from e2e.tree import each, pick

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
HANDLERS = (
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle.postStart",
    "lifecycle.preStop",
)


def violations(pod: object) -> list[str]:
    """Return one line for each field of a pod's spec that the profile forbids; none means that it is admitted."""
    found = [f"pod: {name}" for control in POD_CONTROLS for name in control(pod)]
    for container in each(pod, "initContainers", "containers", "ephemeralContainers"):
        found += [f"{pick(container, 'name')}: {name}" for control in CONTAINER_CONTROLS for name in control(container)]
        found += [f"{pick(container, 'name')}: {name}" for name in _identity(pod, container)]
    return found


def _host(pod: object) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pick(pod, name))


def _volumes(pod: object) -> Iterator[str]:
    for volume in each(pod, "volumes"):
        assert isinstance(volume, Mapping)
        yield from (f"volume {kind}" for kind in sorted(set(volume) - {"name"} - VOLUMES))


def _sysctls(pod: object) -> Iterator[str]:
    for sysctl in each(pod, "securityContext.sysctls"):
        if pick(sysctl, "name") not in SYSCTLS:
            yield f"sysctl {pick(sysctl, 'name')}"


def _context(holder: object) -> Iterator[str]:
    """Yield the violations that a pod and a container can have alike."""
    if pick(holder, "securityContext.seLinuxOptions.type") not in SELINUX_TYPES:
        yield "seLinuxOptions.type"
    yield from (
        f"seLinuxOptions.{name}" for name in ("user", "role") if pick(holder, f"securityContext.seLinuxOptions.{name}")
    )
    if pick(holder, "securityContext.appArmorProfile.type") not in {None, "RuntimeDefault", "Localhost"}:
        yield "appArmorProfile"
    if pick(holder, "securityContext.windowsOptions.hostProcess"):
        yield "hostProcess"
    if pick(holder, "securityContext.runAsUser") == 0:
        yield "runAsUser"


def _privileges(container: object) -> Iterator[str]:
    if pick(container, "securityContext.privileged"):
        yield "privileged"
    if pick(container, "securityContext.allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in each(container, "securityContext.capabilities.drop"):
        yield "capabilities.drop"
    if set(each(container, "securityContext.capabilities.add")) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if pick(container, "securityContext.procMount") not in {None, "Default"}:
        yield "procMount"


def _addresses(container: object) -> Iterator[str]:
    if any(pick(port, "hostPort") for port in each(container, "ports")):
        yield "hostPort"
    for handler in HANDLERS:
        yield from (f"{handler} host" for by in ("httpGet", "tcpSocket") if pick(container, f"{handler}.{by}.host"))


def _identity(pod: object, container: object) -> Iterator[str]:
    """Yield the violations of fields that a container may leave to its pod."""
    own, shared = (pick(holder, "securityContext.runAsNonRoot") for holder in (container, pod))
    if (shared if own is None else own) is not True:
        yield "runAsNonRoot"
    own, shared = (pick(holder, "securityContext.seccompProfile.type") for holder in (container, pod))
    if (shared if own is None else own) not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile"


Control = Callable[[object], Iterator[str]]
POD_CONTROLS: tuple[Control, ...] = (_host, _volumes, _sysctls, _context)
CONTAINER_CONTROLS: tuple[Control, ...] = (_context, _privileges, _addresses)
