"""What a client may ask the forward proxy for, and where that may lead."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.destination import Destination, is_public, parse_destination
from orchestrator.shim.egress_request import read_head


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("api.example.com:443", "api.example.com", 443),
        ("API.Example.COM.:443", "api.example.com", 443),
        ("wallet_db:5432", "wallet_db", 5432),
        ("10.0.0.5:5432", "10.0.0.5", 5432),
        ("[2001:DB8:0:0::1]:443", "2001:db8::1", 443),
        ("xn--bcher-kva.example:1", "xn--bcher-kva.example", 1),
    ],
)
def test_a_destination_is_read_in_one_form(text: str, host: str, port: int) -> None:
    """However it is written, the same host is the same destination."""
    assert parse_destination(text) == Destination(host, port)
    assert parse_destination(str(parse_destination(text))) == Destination(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.example.com",
        "api.example.com:0",
        "api.example.com:65536",
        "api.example.com:443:1",
        ":443",
        "*.example.com:443",
        "https://api.example.com:443",
        "user@api.example.com:443",
        "127.1:80",
        "2130706433:80",
        "0x7f000001:80",
        "0177.0.0.1:80",
        "example.0x1:80",
        "::1:80",
        "[fe80::1%eth0]:80",
        "[127.0.0.1]:80",
        "bücher.example:443",
        "api..example.com:443",
        "-a.example:443",
        "api.example.com:٤٤٣",
        "a" * 64 + ".example:443",
        ".".join(["a" * 63] * 4) + ".example:443",
        "api.example.com:443\n",
    ],
)
def test_what_is_no_destination_is_refused(text: str) -> None:
    """A name that a resolver would read as an address is no name."""
    with pytest.raises(ValueError, match="destination"):
        _ = parse_destination(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104  it is refused
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
    ],
)
def test_addresses_inside_are_not_public(text: str) -> None:
    """Loopback, private, link-local, multicast, reserved and metadata addresses are inside."""
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"],
)
def test_addresses_of_the_internet_are_public(text: str) -> None:
    """What is on the internet may be reached, also through NAT64."""
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_address_hides_in_no_other_form(address: ipaddress.IPv4Address) -> None:
    """Written in version 6, an address of version 4 is as public as it is."""
    for prefix in ("::ffff:", "64:ff9b::"):
        assert is_public(ipaddress.IPv6Address(f"{prefix}{address}")) == is_public(address)


def test_a_tunnel_is_asked_for() -> None:
    """CONNECT names its destination; nothing of its head goes on."""
    asked = read_head(
        b"CONNECT API.example.com:443 HTTP/1.1\r\nHost: other\r\n"
        b"Proxy-Authorization: Basic eA==\r\n\r\n"
    )
    assert (asked.destination, asked.credential) == (("api.example.com", 443), b"Basic eA==")
    assert asked.is_tunnel


def test_a_plain_request_goes_on_without_what_was_for_the_proxy() -> None:
    """The head is written anew: the URL's host, one request, no credential of ours."""
    asked = read_head(
        b"POST http://Plain.example?q=1 HTTP/1.1\r\n"
        b"Host: evil.example\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\n"
        b"Connection: X-Hop, Content-Length\r\nX-Hop: 1\r\n"
        b"Content-Length: 2\r\nX-Own: a b\t\r\n\r\n"
    )
    assert asked.destination == ("plain.example", 80)
    assert asked.head == (
        b"POST /?q=1 HTTP/1.1\r\nhost: Plain.example\r\nconnection: close\r\n"
        b"content-length: 2\r\nx-own: a b\r\n\r\n"
    )


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET https://a.example/ HTTP/1.1\r\n\r\n",
        b"GET ftp://a.example/ HTTP/1.1\r\n\r\n",
        b"GET http://a.example:8080/ HTTP/1.1\r\n\r\n",
        b"GET http://user:secret@a.example/ HTTP/1.1\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\n\r\n",
        b"CONNECT a.example HTTP/1.1\r\n\r\n",
        b"CONNECT http://a.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443 HTTP/2.0\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1 x\r\n\r\n",
        b"CONNECT  a.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\nHost: a\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\n folded\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost : a\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
def test_what_is_no_proxy_request_is_refused(head: bytes) -> None:
    """Whatever is not clearly a request for a forward proxy is none, and is not repeated."""
    with pytest.raises(ValueError, match=r".") as caught:
        _ = read_head(head)
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    """No head makes anything but a request or a refusal."""
    try:
        asked = read_head(b"CONNECT a.example:443 HTTP/1.1\r\n" + noise + b"\r\n\r\n")
    except ValueError:
        return
    assert asked.destination == ("a.example", 443)
