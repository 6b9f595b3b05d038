"""Holds the built manifests against the schemas of Kubernetes and against the program: its settings, its probes, the time
that it takes to stop, and that it needs no more rights than it gets."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import kubernetes_validate
import yaml

# Custom resources have no schema here.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
SECRETS = {name: f"a-{name}-of-this-check-with-32-characters" for name in ("api-token", "admin-token", "csp-token")}


def resources(path):
    with open(path) as file:
        return list(yaml.safe_load_all(file))


def the(kind, found):
    [one] = [resource for resource in found if resource["kind"] == kind]
    return one


def environment(found):
    """The variables of the container, as Kubernetes sets them."""
    variables = dict(the("ConfigMap", found)["data"])
    for variable in container(found)["env"]:
        source = variable["valueFrom"]
        secret = source.get("secretKeyRef")
        variables[variable["name"]] = SECRETS[secret["key"]] if secret else "sandbox-broker-0"
    return variables


def pod(found):
    return the("Deployment", found)["spec"]["template"]["spec"]


def container(found):
    [one] = pod(found)["containers"]
    return one


def check_schemas(path, found):
    for resource in found:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, "1.34", strict=True)
    print(f"{path}: {len(found)} resources fit the schemas")


def check_shutdown(found):
    pause = container(found)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = int(environment(found)["SHUTDOWN_GRACE_SEC"])
    period = pod(found)["terminationGracePeriodSeconds"]
    assert pause + grace < period, f"{pause} s + {grace} s do not fit into {period} s"


def check_rights(found):
    """The pod runs as the image's user, with nothing that the image's program does not need."""
    with open("Dockerfile") as file:
        image = file.read()
    [user, group] = re.search(r"^USER (\d+):(\d+)$", image, re.MULTILINE).groups()
    context = pod(found)["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (int(user), int(group), True), context
    [port] = container(found)["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in image and environment(found)["BROKER_PORT"] == str(port["containerPort"]), port
    own = container(found)["securityContext"]
    assert own["readOnlyRootFilesystem"] and own["capabilities"] == {"drop": ["ALL"]}, own
    assert not own["allowPrivilegeEscalation"], own
    # The program writes only into its data directory, and without an embedded store nowhere: see check_program.
    mounted = [mount["mountPath"] for mount in container(found).get("volumeMounts", [])]
    assert mounted == [path for path in [environment(found).get("BROKER_DATA_DIR")] if path], mounted


def check_program(broker, found, is_embedded):
    """Starts the program with the container's variables; only the port and the directory are this machine's."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as root, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        variables = {**environment(found), "BROKER_HOST": "127.0.0.1", "BROKER_PORT": str(port)}
        if is_embedded:
            variables["BROKER_DATA_DIR"] = directory
        else:
            check_settings(broker, variables)
            for name in ("AWS_REGION", "CSP_BASE_URL", "CSP_API_TOKEN"):
                del variables[name]
            variables |= {"BROKER_STORE": "memory", "CSP_MODE": "sim"}
        process = subprocess.Popen([broker], cwd=root, env=variables | {"HOME": root, "TMPDIR": root}, stdout=subprocess.DEVNULL)
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                check_probe(port, container(found)[probe], probe)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=pod(found)["terminationGracePeriodSeconds"]) == 0
        assert os.listdir(root) == [], os.listdir(root)


def check_settings(broker, variables):
    """With its own settings the program gets as far as the table, which is missing here."""
    elsewhere = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "DDB_ENDPOINT_URL": "http://127.0.0.1:9"}
    ended = subprocess.run([broker], env=variables | elsewhere, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1, ended


def check_probe(port, probe, name):
    url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as answer:
                assert answer.status == 200, answer.status
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{name}: {url} does not answer with 200")


def main():
    broker, *paths = sys.argv[1:]
    for path in paths:
        found = resources(path)
        is_embedded = os.path.basename(path).startswith("embedded")
        check_schemas(path, found)
        check_shutdown(found)
        check_rights(found)
        check_program(os.path.abspath(broker), found, is_embedded)
        print(f"{path}: the program takes its settings, answers its probes, stops in time and needs no more rights")


main()
