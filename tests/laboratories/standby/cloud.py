"""EC2, as the machines of a laboratory see it: its API at its own name, and the instances' metadata.

The API is moto's, with its certificate in place of Amazon's.  In front of moto stands what it does not
do: credentials and policy are enforced, an address is on one interface only, and an Elastic IP is at an
address.  Tests can also order faults, such as an answer that is delayed.  The metadata service answers
version 2 (IMDSv2) only.

Runs as a process of its own, which ends when its standard input ends.  It reads one call of a method per
line from there, ``[method, {argument: value}]`` in JSON, and prints each result on one line.
"""

from __future__ import annotations

import fnmatch
import io
import json
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_ip_addresses import ElasticAddress
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

ACCOUNT = "123456789012"
REGION = "eu-central-1"
METADATA = "169.254.169.254"
ROLE = "web-server"

_ERROR = "<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors></Response>"

# For each permission, the call's parameter that names its resource (the service authorization
# reference).
_RESOURCES = {
    "AssociateAddress": {
        "AllocationId": "elastic-ip",
        "NetworkInterfaceId": "network-interface",
    },
    "AssignPrivateIpAddresses": {"NetworkInterfaceId": "network-interface"},
}

_at: dict[str, str] = {}
"""The private address that each Elastic IP is at: moto knows only the interface."""

ElasticAddress.private_ip_address = property(lambda self: _at.get(self.public_ip))  # type: ignore[assignment]


class Cloud:
    """Two instances' part of EC2, with one Elastic IP that is at no interface yet."""

    def __init__(self, elastic_ip: str, network: str) -> None:
        self._backend = ec2_backends[ACCOUNT][REGION]
        vpc = self._backend.create_vpc(network)
        self._subnet = self._backend.create_subnet(vpc.id, network, availability_zone=f"{REGION}a")
        self._group = self._backend.create_security_group("pair", "pair", vpc_id=vpc.id)
        self._backend.allocate_address("vpc", address=elastic_ip)
        self._elastic_ip = elastic_ip
        self._instances: dict[str, dict[str, Any]] = {}
        self._tokens: set[str] = set()
        self._policy: list[dict[str, Any]] = []
        self._faults: dict[str, str] = {}
        self._calls: list[list[str]] = []
        self._metadata_fail = False
        self._delayed = threading.Event()
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)

    # What the tests call

    def add_elastic_ip(self, elastic_ip: str) -> None:
        """Add an Elastic IP of the account that belongs to neither machine of the pair."""
        self._backend.allocate_address("vpc", address=elastic_ip)

    def add_interface(self, address: str) -> str:
        """Add an interface outside the pair with that address; return its name."""
        return str(self._backend.create_network_interface(self._subnet, address).id)

    def remove_interface(self, eni: str) -> None:
        """Undo ``add_interface``."""
        self._backend.delete_network_interface(eni)

    def add_instance(self, address: str, mac: str) -> str:
        """Add an instance; return the name of its network interface."""
        eni = self._backend.create_network_interface(self._subnet, address, group_ids=[self._group.id])
        credentials = {
            "Code": "Success",
            "LastUpdated": "2024-01-01T00:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": f"ASIA{secrets.token_hex(8).upper()}",
            "SecretAccessKey": secrets.token_urlsafe(30),
            "Token": secrets.token_urlsafe(60),
            "Expiration": "2999-01-01T00:00:00Z",
        }
        self._instances[address] = {"mac": mac, "eni": eni.id, "credentials": credentials}
        return str(eni.id)

    def secrets(self) -> list[str]:
        """Return everything that no log may contain."""
        names = ("SecretAccessKey", "Token")
        return [it["credentials"][name] for it in self._instances.values() for name in names] + sorted(
            self._tokens
        )

    def elastic_ip(self) -> list[str | None]:
        """Return the interface and the address that the Elastic IP is at."""
        (found,) = self._backend.describe_addresses(public_ips=[self._elastic_ip])
        return [found.network_interface_id or None, _at.get(self._elastic_ip)]

    def put_elastic_ip(self, eni: str, address: str) -> None:
        """Move the Elastic IP there, and the address with it, as a person might by hand."""
        interface = self._backend.get_network_interface(eni)
        if address not in self._instances:
            for it in self._backend.describe_network_interfaces():
                self._backend.unassign_private_ip_addresses(it.id, [address])
            self._backend.assign_private_ip_addresses(eni, [address])
        self._backend.associate_address(eni=interface, address=self._elastic_ip, reassociate=True)
        _at[self._elastic_ip] = address

    def addresses(self, eni: str) -> list[str]:
        """Return the addresses of an interface."""
        interface = self._backend.get_network_interface(eni)
        return [it["PrivateIpAddress"] for it in interface.private_ip_addresses]

    def let_in(self, rules: list[list[Any]]) -> None:
        """Put these rules into the security group: ``[protocol, first port, last port, network]``.

        Without a network a rule lets in what comes from the group itself.
        """
        self._group.ingress_rules.clear()
        for protocol, first, last, network in rules:
            networks = [{"CidrIp": network}] if network else []
            groups = [] if network else [{"GroupId": self._group.id}]
            self._backend.authorize_security_group_ingress(
                self._group.id, protocol, first, last, networks, source_groups=groups
            )

    def permit(self, policy: dict[str, Any]) -> None:
        """Attach this policy to the role."""
        self._policy = policy["Statement"]

    def fail(self, call: str, kind: str) -> None:
        """Let the next call of that name fail: ``error``, ``throttle``, or ``delay`` until faults are
        forgotten.
        """
        with self._lock:
            self._faults[call] = kind

    def forget_faults(self) -> None:
        """Let no further call fail; answer what was delayed."""
        with self._lock:
            self._faults.clear()
            self._delayed.set()
            self._delayed = threading.Event()

    def fail_metadata(self, fail: bool) -> None:
        """Answer no request for metadata."""
        self._metadata_fail = fail

    def calls(self) -> list[list[str]]:
        """Return the calls since the last time, ``[address, call]``; a dry run is ``call?``."""
        with self._lock:
            calls, self._calls = self._calls, []
        return calls

    # The API

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        parameters = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        answer = self._answer(environ, parameters)
        if answer is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        return answer(environ, start_response)

    def _answer(self, environ: dict[str, Any], parameters: dict[str, str]) -> Response | None:
        call, caller = parameters["Action"], environ["REMOTE_ADDR"]
        with self._lock:
            self._calls.append([caller, call + "?" * (parameters.get("DryRun") == "true")])
        if (fault := self._fault(call)) is not None:
            return fault
        if not self._knows(environ, caller):
            return _error(401, "AuthFailure", "not these credentials")
        if not self._permits(parameters):
            message = (
                f"You are not authorized to perform this operation. User: arn:aws:sts::{ACCOUNT}:"
                f"assumed-role/{ROLE}/i-1 is not authorized to perform: ec2:{call} because no identity-based "
                f"policy allows the ec2:{call} action. Encoded authorization failure message: ENCODED"
            )
            return _error(403, "UnauthorizedOperation", message)
        if parameters.get("DryRun") == "true" or call not in _RESOURCES:
            return None
        with self._lock:
            assign = call == "AssignPrivateIpAddresses"
            return self._assign(parameters) if assign else self._associate(parameters)

    def _fault(self, call: str) -> Response | None:
        with self._lock:
            kind, delayed = self._faults.pop(call, ""), self._delayed
        if kind == "error":
            return _error(500, "InternalError", "An internal error has occurred")
        if kind == "throttle":
            return _error(503, "RequestLimitExceeded", "Request limit exceeded.")
        if kind == "delay":
            delayed.wait()
        return None

    def _knows(self, environ: dict[str, Any], caller: str) -> bool:
        credentials = self._instances[caller]["credentials"]
        signed = f"Credential={credentials['AccessKeyId']}/" in environ.get("HTTP_AUTHORIZATION", "")
        return bool(signed and environ.get("HTTP_X_AMZ_SECURITY_TOKEN") == credentials["Token"])

    def _permits(self, parameters: dict[str, str]) -> bool:
        kinds = _RESOURCES.get(parameters["Action"], {})
        resources = [(kind, parameters[name]) for name, kind in kinds.items()]
        action = f"ec2:{parameters['Action']}"
        return all(
            any(
                _matches(action, it["Action"])
                and _matches(
                    f"arn:aws:ec2:{REGION}:{ACCOUNT}:{kind}/{name}" if kind else "*", it["Resource"]
                )
                and it.get("Condition", {}).get("StringEquals", {}).items()
                <= self._keys(kind, name).items()
                for it in self._policy
            )
            for kind, name in resources or [("", "")]
        )

    def _keys(self, kind: str, name: str) -> dict[str, str]:
        """Return the key of a resource that a condition may use (the same reference); of all keys only
        this one.
        """
        if kind != "elastic-ip":
            return {}
        (found,) = self._backend.describe_addresses(allocation_ids=[name])
        return {"ec2:PublicIpAddress": found.public_ip}

    def _assign(self, parameters: dict[str, str]) -> Response | None:
        address, eni = parameters["PrivateIpAddress.1"], parameters["NetworkInterfaceId"]
        others = [
            it
            for it in self._backend.describe_network_interfaces()
            if it.id != eni and address in self.addresses(it.id)
        ]
        if others and parameters.get("AllowReassignment") != "true":
            return _invalid(f"{address} is already assigned")
        if address in self._instances and self._instances[address]["eni"] != eni:
            return _invalid(f"{address} is a primary address")
        for it in others:
            self._backend.unassign_private_ip_addresses(it.id, [address])
        return None

    def _associate(self, parameters: dict[str, str]) -> Response | None:
        address = parameters["PrivateIpAddress"]
        if address not in self.addresses(parameters["NetworkInterfaceId"]):
            return _invalid(f"{address} is not assigned to this interface")
        _at[self._elastic_ip] = address
        return None

    # The metadata

    def metadata(self, request: Request) -> Response:
        """Answer a request for a token, or with a token for metadata.

        An error is a page, too, so that a client that takes it for an answer is noticed.
        """
        if request.method == "PUT":
            known = request.path == "/latest/api/token"
            lasting = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            if not (known and lasting) or self._metadata_fail:
                return Response("<html>no</html>", 400)
            token = secrets.token_urlsafe(40)
            self._tokens.add(token)
            return Response(token)
        if request.headers.get("X-aws-ec2-metadata-token") not in self._tokens or self._metadata_fail:
            return Response("<html>no</html>", 401)
        known_paths = self._metadata_of(request.remote_addr or "")
        text = known_paths.get(request.path.removeprefix("/latest/meta-data/"))
        return Response("<html>no</html>", 404) if text is None else Response(text)

    def _metadata_of(self, address: str) -> dict[str, str]:
        """Return what the instance at that address reads, by path."""
        it = self._instances[address]
        interface = f"network/interfaces/macs/{it['mac']}"
        return {
            "placement/region": REGION,
            "placement/availability-zone": f"{REGION}a",
            f"{interface}/interface-id": it["eni"],
            f"{interface}/security-group-ids": self._group.id,
            f"{interface}/subnet-id": self._subnet.id,
            "iam/security-credentials/": ROLE,
            f"iam/security-credentials/{ROLE}": json.dumps(it["credentials"]),
        }


def _matches(text: str, patterns: str | list[str]) -> bool:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(text, it) for it in patterns)


def _error(status: int, code: str, message: str) -> Response:
    return Response(_ERROR.format(code, message), status, content_type="text/xml;charset=UTF-8")


def _invalid(message: str) -> Response:
    return _error(400, "InvalidParameterValue", message)


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def main(address: str, certificate: str, key: str, elastic_ip: str, network: str) -> None:
    """Serve until standard input ends."""
    cloud = Cloud(elastic_ip, network)
    api = make_server(address, 443, cloud, True, 1, _Quiet, ssl_context=(certificate, key))
    metadata = make_server(METADATA, 80, Request.application(cloud.metadata), True, 1, _Quiet)
    for server in (api, metadata):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        print(json.dumps(getattr(cloud, method)(**arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
