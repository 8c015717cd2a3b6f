"""The checker of the restricted profile rejects a violation of every control."""

import copy
from collections.abc import Mapping

import pytest
import yaml

from e2e.pod_security import violations
from e2e.tree import pick

pytestmark = pytest.mark.e2e
ADMITTED = """
securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
volumes: [{name: tmp, emptyDir: {}}]
containers:
  - name: main
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""


@pytest.mark.parametrize(
    ("overlay", "violation"),
    [
        ("{hostNetwork: true}", "pod: hostNetwork"),
        ("{hostPID: true}", "pod: hostPID"),
        ("{hostIPC: true}", "pod: hostIPC"),
        ("{volumes: [{name: host, hostPath: {path: /}}]}", "pod: volume hostPath"),
        ("{securityContext: {sysctls: [{name: kernel.msgmax}]}}", "pod: sysctl kernel.msgmax"),
        ("{securityContext: {runAsUser: 0}}", "pod: runAsUser"),
        ("{securityContext: {runAsNonRoot: false}}", "main: runAsNonRoot"),
        ("{securityContext: {runAsNonRoot: null}}", "main: runAsNonRoot"),
        ("{securityContext: {seccompProfile: null}}", "main: seccompProfile"),
        ("{securityContext: {seLinuxOptions: {type: spc_t}}}", "pod: seLinuxOptions.type"),
        ("{securityContext: {seLinuxOptions: {user: root}}}", "pod: seLinuxOptions.user"),
        ("{securityContext: {appArmorProfile: {type: Unconfined}}}", "pod: appArmorProfile"),
        ("{securityContext: {windowsOptions: {hostProcess: true}}}", "pod: hostProcess"),
        ("{main: {securityContext: {privileged: true}}}", "main: privileged"),
        ("{main: {securityContext: {allowPrivilegeEscalation: null}}}", "main: allowPrivilegeEscalation"),
        ("{main: {securityContext: {capabilities: {drop: [NET_RAW]}}}}", "main: capabilities.drop"),
        ("{main: {securityContext: {capabilities: {add: [SYS_TIME]}}}}", "main: capabilities.add"),
        ("{main: {securityContext: {procMount: Unmasked}}}", "main: procMount"),
        ("{main: {securityContext: {runAsUser: 0}}}", "main: runAsUser"),
        ("{main: {securityContext: {runAsNonRoot: false}}}", "main: runAsNonRoot"),
        ("{main: {securityContext: {seccompProfile: {type: Unconfined}}}}", "main: seccompProfile"),
        ("{main: {ports: [{containerPort: 80, hostPort: 80}]}}", "main: hostPort"),
        ("{main: {livenessProbe: {httpGet: {host: 192.0.2.1}}}}", "main: livenessProbe host"),
    ],
)
def test_control_rejects(overlay: str, violation: str) -> None:
    """An admitted pod with one forbidden field is rejected for that field only."""
    pod = yaml.safe_load(ADMITTED)
    assert violations(pod) == []
    changes = yaml.safe_load(overlay)
    pod["containers"] = [merge(pod["containers"][0], changes.pop("main", {}))]
    assert violations(merge(pod, changes)) == [violation]


def merge(old: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Return a copy with the changes applied, mapping by mapping."""
    result = copy.deepcopy(dict(old))
    for key, change in changes.items():
        below = pick(old, key)
        result[key] = merge(below, change) if isinstance(below, dict) and isinstance(change, dict) else change
    return result
