"""EC2, as the machines of a laboratory see it: its API at its own name, and the instances' metadata.

The API is moto's, with its certificate in place of Amazon's.  In front of moto stands what it does not
do: credentials and policy are enforced, an address is on one interface only, and an Elastic IP is at an
address.  Tests can also ask for faults, such as an answer that is held back.  The metadata service
answers version 2 (IMDSv2) only.

Runs as a process of its own, which ends when its standard input ends.  It reads one request per line
from there, ``[method, {argument: value}]`` in JSON, and answers each with one line on standard output.
"""

from __future__ import annotations

import fnmatch
import io
import json
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_ip_addresses import ElasticAddress
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ACCOUNT = "123456789012"
REGION = "eu-central-1"
HOST = f"ec2.{REGION}.amazonaws.com"
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

Answer = tuple[str, str]


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
        self._faults: list[list[Any]] = []
        self._calls: list[list[str]] = []
        self._says_no = False
        self._held = threading.Event()
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)

    # What the tests ask for

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
        """Put these rules, ``[protocol, first port, last port, network]``, into the security group."""
        self._group.ingress_rules.clear()
        for protocol, first, last, network in rules:
            self._backend.authorize_security_group_ingress(
                self._group.id, protocol, first, last, [{"CidrIp": network}]
            )

    def let_in_itself(self) -> None:
        """Put one rule into the group: it lets in all that comes from the group itself, and nothing
        else.
        """
        self._group.ingress_rules.clear()
        itself = [{"GroupId": self._group.id}]
        self._backend.authorize_security_group_ingress(
            self._group.id, "-1", "-1", "-1", [], source_groups=itself
        )

    def permit(self, policy: dict[str, Any]) -> None:
        """Attach this policy to the role."""
        self._policy = policy["Statement"]

    def fail(self, call: str, kind: str, times: int = 1) -> None:
        """Let the next calls of this kind fail: ``error``, ``throttle`` or ``hold``, until faults are
        forgotten.
        """
        with self._lock:
            self._faults.append([call, kind, times])

    def forget_faults(self) -> None:
        """Let no further call fail; answer what was held back."""
        with self._lock:
            self._faults.clear()
            self._held.set()
            self._held = threading.Event()

    def hide_metadata(self, hidden: bool) -> None:
        """Answer 500 to all requests for metadata."""
        self._says_no = hidden

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
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        said = self._answer(environ, asked)
        if said is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        status, text = said
        start_response(status, [("Content-Type", "text/xml;charset=UTF-8")])
        return [text.encode()]

    def _answer(self, environ: dict[str, Any], asked: dict[str, str]) -> Answer | None:
        call, caller = asked["Action"], environ["REMOTE_ADDR"]
        with self._lock:
            self._calls.append([caller, call + "?" * (asked.get("DryRun") == "true")])
        if (fault := self._fault(call)) is not None:
            return fault
        if not self._knows(environ, caller):
            return _error("401 Unauthorized", "AuthFailure", "not these credentials")
        if not self._permits(asked):
            message = (
                f"You are not authorized to perform this operation. User: arn:aws:sts::{ACCOUNT}:"
                f"assumed-role/{ROLE}/i-1 is not authorized to perform: ec2:{call} because no identity-based "
                f"policy allows the ec2:{call} action. Encoded authorization failure message: ENCODED"
            )
            return _error("403 Forbidden", "UnauthorizedOperation", message)
        if asked.get("DryRun") == "true" or call not in _RESOURCES:
            return None
        with self._lock:
            return self._assign(asked) if call == "AssignPrivateIpAddresses" else self._associate(asked)

    def _fault(self, call: str) -> Answer | None:
        with self._lock:
            fault = next((it for it in self._faults if it[0] == call), None)
            if fault is None:
                return None
            fault[2] -= 1
            if not fault[2]:
                self._faults.remove(fault)
            held = self._held
        kind = fault[1]
        if kind == "error":
            return _error("500 Internal Server Error", "InternalError", "An internal error has occurred")
        if kind == "throttle":
            return _error("503 Service Unavailable", "RequestLimitExceeded", "Request limit exceeded.")
        held.wait()
        return None

    def _knows(self, environ: dict[str, Any], caller: str) -> bool:
        credentials = self._instances[caller]["credentials"]
        signed = f"Credential={credentials['AccessKeyId']}/" in environ.get("HTTP_AUTHORIZATION", "")
        return bool(signed and environ.get("HTTP_X_AMZ_SECURITY_TOKEN") == credentials["Token"])

    def _permits(self, asked: dict[str, str]) -> bool:
        kinds = _RESOURCES.get(asked["Action"], {})
        resources = [(kind, asked[name]) for name, kind in kinds.items()]
        action = f"ec2:{asked['Action']}"
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

    def _assign(self, asked: dict[str, str]) -> Answer | None:
        address, eni = asked["PrivateIpAddress.1"], asked["NetworkInterfaceId"]
        others = [
            it
            for it in self._backend.describe_network_interfaces()
            if it.id != eni and address in self.addresses(it.id)
        ]
        if others and asked.get("AllowReassignment") != "true":
            return _invalid(f"{address} is already assigned")
        if address in self._instances and self._instances[address]["eni"] != eni:
            return _invalid(f"{address} is a primary address")
        for it in others:
            self._backend.unassign_private_ip_addresses(it.id, [address])
        return None

    def _associate(self, asked: dict[str, str]) -> Answer | None:
        address = asked["PrivateIpAddress"]
        if address not in self.addresses(asked["NetworkInterfaceId"]):
            return _invalid(f"{address} is not assigned to this interface")
        _at[self._elastic_ip] = address
        return None

    # The metadata

    def metadata(self, caller: str, path: str) -> str | None:
        """Return what the instance at that address reads there; None if there is nothing."""
        it = self._instances[caller]
        interface = f"network/interfaces/macs/{it['mac']}"
        return {
            "placement/region": REGION,
            "placement/availability-zone": f"{REGION}a",
            f"{interface}/interface-id": it["eni"],
            f"{interface}/security-group-ids": self._group.id,
            f"{interface}/subnet-id": self._subnet.id,
            "iam/security-credentials/": ROLE,
            f"iam/security-credentials/{ROLE}": json.dumps(it["credentials"]),
        }.get(path)

    def new_token(self) -> str | None:
        """Return a new token, which gives access to the metadata."""
        if self._says_no:
            return None
        token = secrets.token_urlsafe(40)
        self._tokens.add(token)
        return token

    def is_open(self, token: str | None) -> bool:
        """Return whether this token was issued."""
        return token in self._tokens and not self._says_no


def _matches(text: str, patterns: str | list[str]) -> bool:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(text, it) for it in patterns)


def _error(status: str, code: str, message: str) -> Answer:
    return status, _ERROR.format(code, message)


def _invalid(message: str) -> Answer:
    return _error("400 Bad Request", "InvalidParameterValue", message)


def _serve_metadata(cloud: Cloud) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            known = self.path == "/latest/api/token"
            lasting = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self._answer(cloud.new_token() if known and lasting else None, 400)

        def do_GET(self) -> None:
            if not cloud.is_open(self.headers.get("X-aws-ec2-metadata-token")):
                self._answer(None, 401)
                return
            path = self.path.removeprefix("/latest/meta-data/")
            self._answer(cloud.metadata(self.client_address[0], path), 404)

        def _answer(self, text: str | None, otherwise: int) -> None:
            # An error is a page, too, so that a client that takes it for an answer is noticed.
            body = ("<html>no</html>" if text is None else text).encode()
            self.send_response(otherwise if text is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    return ThreadingHTTPServer((METADATA, 80), Handler)


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def main(address: str, certificate: str, key: str, elastic_ip: str, network: str) -> None:
    """Serve until standard input ends."""
    cloud = Cloud(elastic_ip, network)
    files = (certificate, key)
    api = make_server(address, 443, cloud, True, request_handler=_Quiet, ssl_context=files)
    for server in (api, _serve_metadata(cloud)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        print(json.dumps(getattr(cloud, method)(**arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
