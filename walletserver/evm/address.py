"""EVM addresses: one canonical form inside, EIP-55 outside."""

import re
from typing import Final, NewType

from walletserver.codes import Code
from walletserver.errors import InvalidInputError
from walletserver.evm.keccak import keccak256

Address = NewType("Address", str)
"""`0x` and 40 lower-case hex digits."""

# Tron addresses pass the schema, so that the answer on Tron is "not available", not "malformed".
ADDRESS_PATTERN: Final = r"^(0x[0-9a-fA-F]{40}|T[1-9A-HJ-NP-Za-km-z]{33})$"
_EVM: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_CHECKSUM_NIBBLE: Final = 8


def parse_address(text: str) -> Address:
    """Read an address; one in mixed case must carry a correct EIP-55 checksum.

    Raises:
        InvalidInputError: It is not an EVM address, or its checksum is wrong.
    """
    if _EVM.fullmatch(text) is None:
        raise InvalidInputError(
            Code.INVALID_ADDRESS, "An EVM address is 0x followed by 40 hexadecimal digits."
        )
    digits = text[2:]
    address = Address(text.lower())
    one_case = digits in {digits.lower(), digits.upper()}
    if not one_case and checksum(address) != text:
        raise InvalidInputError(Code.INVALID_ADDRESS, "The address checksum (EIP-55) is wrong.")
    return address


def checksum(address: Address) -> str:
    """Return the EIP-55 form.

    Source: EIP-55.
    """
    digits = address[2:]
    digest = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= _CHECKSUM_NIBBLE else digit
        for digit, nibble in zip(digits, digest, strict=False)
    )


def address_bytes(address: Address) -> bytes:
    """Return the 20 bytes of an address."""
    return bytes.fromhex(address[2:])


def address_from_bytes(data: bytes) -> Address:
    """Return the address of 20 bytes."""
    return Address("0x" + data.hex())
