"""Unsigned transactions: EIP-1559 and legacy, to and from their exact bytes.

Source: EIP-1559, EIP-155, EIP-2718; fact sheet section 7.2.
"""

import re
from dataclasses import dataclass
from typing import Final

from walletserver.codes import Code
from walletserver.errors import InvalidInputError
from walletserver.evm import rlp
from walletserver.evm.address import Address, address_bytes, address_from_bytes
from walletserver.evm.keccak import keccak256

MAX_NONCE: Final = 2**53 - 1
MAX_HEX_LENGTH: Final = 4096
HEX_PATTERN: Final = r"^0x([0-9a-fA-F]{2}){1,2047}$"
_HEX: Final = re.compile(HEX_PATTERN)

_TYPE_1559: Final = 0x02
_WORD: Final = 256
_GAS_BITS: Final = 64
_ADDRESS_LENGTH: Final = 20
_FIELDS: Final = 9


@dataclass(frozen=True, slots=True)
class Eip1559Fee:
    """The fee offer of a type 2 transaction, in wei a gas."""

    max_priority_fee: int
    max_fee: int


@dataclass(frozen=True, slots=True)
class LegacyFee:
    """The fee offer of a legacy transaction, in wei a gas."""

    gas_price: int


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """What is to be signed."""

    chain_id: int
    nonce: int
    gas_limit: int
    to: Address
    value: int
    data: bytes
    fee: Eip1559Fee | LegacyFee

    @property
    def max_fee_per_gas(self) -> int:
        """The most one gas may cost, in wei."""
        return self.fee.max_fee if isinstance(self.fee, Eip1559Fee) else self.fee.gas_price

    @property
    def max_cost(self) -> int:
        """The most the fee may come to, in wei."""
        return self.gas_limit * self.max_fee_per_gas

    def encode(self) -> bytes:
        """Return the bytes whose hash is signed."""
        to, value, data = address_bytes(self.to), self.value, self.data
        tail = [rlp.encode_bytes(to), rlp.encode_int(value), rlp.encode_bytes(data)]
        if isinstance(self.fee, Eip1559Fee):
            head = (
                self.chain_id,
                self.nonce,
                self.fee.max_priority_fee,
                self.fee.max_fee,
                self.gas_limit,
            )
            items = [*map(rlp.encode_int, head), *tail, rlp.EMPTY_LIST]
            return bytes([_TYPE_1559]) + rlp.encode_list(items)
        head = (self.nonce, self.fee.gas_price, self.gas_limit)
        replay_guard = map(rlp.encode_int, (self.chain_id, 0, 0))
        return rlp.encode_list([*map(rlp.encode_int, head), *tail, *replay_guard])

    @property
    def unsigned_hex(self) -> str:
        """The encoding as `0x` text."""
        return "0x" + self.encode().hex()

    @property
    def signing_hash(self) -> str:
        """The hash that is signed, as `0x` text; not the on-chain hash."""
        return "0x" + keccak256(self.encode()).hex()


def decode_unsigned(text: str) -> UnsignedTransaction:
    """Read a transaction from the hex text of its unsigned encoding.

    Raises:
        InvalidInputError: Not hex, not canonical, or of a kind that is not served. Contract
            creation and access lists are such kinds.
    """
    if len(text) > MAX_HEX_LENGTH or _HEX.fullmatch(text) is None:
        raise InvalidInputError(Code.INVALID_PAYLOAD, "The transaction is not 0x and hex digits.")
    data = bytes.fromhex(text[2:])
    try:
        transaction = _decode_1559(data) if data[0] == _TYPE_1559 else _decode_legacy(data)
    except rlp.RlpError as error:
        raise InvalidInputError(
            Code.INVALID_PAYLOAD, "The transaction is not a canonical unsigned encoding."
        ) from error
    if transaction.nonce > MAX_NONCE or transaction.chain_id < 1:
        raise InvalidInputError(
            Code.INVALID_PAYLOAD, "A number in the transaction is out of range."
        )
    return transaction


def _decode_1559(data: bytes) -> UnsignedTransaction:
    items = rlp.decode_list(data[1:])
    if len(items) != _FIELDS or items[-1] is not None:
        raise rlp.RlpError
    chain_id, nonce, priority, max_fee, gas, to, value, call = _strings(items[:-1])
    fee = Eip1559Fee(
        max_priority_fee=rlp.decode_int(priority, bits=_WORD),
        max_fee=rlp.decode_int(max_fee, bits=_WORD),
    )
    if fee.max_priority_fee > fee.max_fee:
        raise InvalidInputError(Code.INVALID_PAYLOAD, "The priority fee is above the maximum fee.")
    return UnsignedTransaction(
        chain_id=rlp.decode_int(chain_id, bits=_GAS_BITS),
        nonce=rlp.decode_int(nonce, bits=_GAS_BITS),
        gas_limit=rlp.decode_int(gas, bits=_GAS_BITS),
        to=_recipient(to),
        value=rlp.decode_int(value, bits=_WORD),
        data=call,
        fee=fee,
    )


def _decode_legacy(data: bytes) -> UnsignedTransaction:
    if data[0] < rlp.EMPTY_LIST[0]:
        raise InvalidInputError(
            Code.UNSUPPORTED_TX_TYPE, "Only EIP-1559 and legacy transactions are served."
        )
    items = rlp.decode_list(data)
    if len(items) != _FIELDS:
        raise rlp.RlpError
    nonce, price, gas, to, value, call, chain_id, zero_r, zero_s = _strings(items)
    if zero_r or zero_s:
        raise rlp.RlpError
    return UnsignedTransaction(
        chain_id=rlp.decode_int(chain_id, bits=_GAS_BITS),
        nonce=rlp.decode_int(nonce, bits=_GAS_BITS),
        gas_limit=rlp.decode_int(gas, bits=_GAS_BITS),
        to=_recipient(to),
        value=rlp.decode_int(value, bits=_WORD),
        data=call,
        fee=LegacyFee(gas_price=rlp.decode_int(price, bits=_WORD)),
    )


def _strings(items: list[bytes | None]) -> list[bytes]:
    strings = [item for item in items if item is not None]
    if len(strings) != len(items):
        raise rlp.RlpError
    return strings


def _recipient(data: bytes) -> Address:
    if not data:
        raise InvalidInputError(Code.UNSUPPORTED_TX_TYPE, "Contract creation is not served.")
    if len(data) != _ADDRESS_LENGTH:
        raise rlp.RlpError
    return address_from_bytes(data)
