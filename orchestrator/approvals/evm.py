"""Reads an unsigned EVM transaction for a person: who gets what, at which most fee.

Only the one canonical form of legacy (EIP-155) and EIP-1559 transactions is read; everything else
is refused, so that nothing is shown that is not certain to be what would be signed.

Source: EIP-155, EIP-1559, EIP-2718; RLP as in the Ethereum Yellow Paper, appendix B; ERC-20.
"""

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

_HEX: Final = re.compile(r"0x((?:[0-9a-fA-F]{2})+)")
_LONGEST: Final = 262_144  # characters
_TYPE_1559: Final = 0x02
_SHORT: Final = 55
_STRING: Final = 0x80
_LIST: Final = 0xC0
_FIELDS: Final = 9
_ADDRESS: Final = 20
_WORD: Final = 32
_SELECTOR: Final = 4
_DECIMALS: Final = 18
_UNLIMITED: Final = 2**256 - 1

# Names and native coins of chains; an id without a row is told as its number alone.
_CHAINS: Final = {
    1: ("Ethereum", "ETH"),
    10: ("OP Mainnet", "ETH"),
    56: ("BNB Smart Chain", "BNB"),
    137: ("Polygon", "POL"),
    8453: ("Base", "ETH"),
    42161: ("Arbitrum One", "ETH"),
    11155111: ("Sepolia (test network)", "ETH"),
}
# By selector: name, and what its arguments are.
_CALLS: Final = {
    "a9059cbb": ("transfer", ("address", "amount")),
    "095ea7b3": ("approve", ("address", "amount")),
    "23b872dd": ("transferFrom", ("address", "address", "amount")),
    "39509351": ("increaseAllowance", ("address", "amount")),
}

_Item: TypeAlias = "bytes | list[_Item]"


@dataclass(frozen=True, slots=True)
class _Transaction:
    kind: str
    chain: int
    nonce: int
    gas: int
    gas_price: int
    tip: int | None
    to: bytes
    value: int
    data: bytes
    access: int


def read_transaction(text: str) -> str:
    """Tell what an unsigned transaction does, in lines.

    Args:
        text: Its encoding as `0x` and hexadecimal digits.

    Raises:
        ValueError: It is none, or of a form that is not known.
    """
    if len(text) > _LONGEST or (match := _HEX.fullmatch(text)) is None:
        raise ValueError("it is no transaction in hexadecimal digits")
    data = bytes.fromhex(match[1])
    found = _read_1559(data[1:]) if data[0] == _TYPE_1559 else _read_legacy(data)
    return "\n".join(_tell(found))


def _read_1559(data: bytes) -> _Transaction:
    items = _decode(data)
    if len(items) != _FIELDS or not isinstance(items[8], list):
        raise ValueError("it is no unsigned EIP-1559 transaction")
    chain, nonce, tip, fee, gas, to, value, call = map(_bytes, items[:8])
    if _number(tip) > _number(fee):
        raise ValueError("its tip is above its maximum fee")
    return _Transaction(
        "EIP-1559",
        _number(chain),
        _number(nonce),
        _number(gas),
        _number(fee),
        _number(tip),
        to,
        _number(value),
        call,
        len(items[8]),
    )


def _read_legacy(data: bytes) -> _Transaction:
    if data[0] < _LIST:
        raise ValueError("it is of a type that is neither EIP-1559 nor legacy")
    items = _decode(data)
    if len(items) != _FIELDS or _bytes(items[7]) or _bytes(items[8]):
        raise ValueError("it is no unsigned legacy transaction that names its chain")
    nonce, price, gas, to, value, call, chain = map(_bytes, items[:7])
    return _Transaction(
        "legacy",
        _number(chain),
        _number(nonce),
        _number(gas),
        _number(price),
        None,
        to,
        _number(value),
        call,
        0,
    )


def _tell(found: _Transaction) -> list[str]:
    if found.chain < 1 or len(found.to) not in {0, _ADDRESS}:
        raise ValueError("its chain or its recipient is none")
    name, coin = _CHAINS.get(found.chain, ("a chain that is not known here", "native coin"))
    to = _hex(found.to)
    lines = [f"Chain: {found.chain}, {name}"]
    if not found.to:
        lines += ["Creates a contract", f"Sends along: {_coins(found.value, coin)}"]
        lines += [f"Code: {len(found.data)} bytes, not decoded"]
    elif not found.data:
        lines += [f"Recipient: {to}", f"Amount: {_coins(found.value, coin)}"]
    else:
        lines += [f"Contract: {to}", *_tell_call(found.data)]
        if found.value:
            lines += [f"Sends along: {_coins(found.value, coin)}"]
    lines += [f"Fee: at most {_coins(found.gas * found.gas_price, coin)}"]
    lines += [f"  {found.gas} gas at most, each at most {_gwei(found.gas_price)}"]
    if found.tip is not None:
        lines[-1] += f", of which tip at most {_gwei(found.tip)}"
    if found.access:
        lines += [f"Access list: {found.access} entries, not decoded"]
    return [*lines, f"Nonce: {found.nonce}, type {found.kind}"]


def _tell_call(data: bytes) -> list[str]:
    selector, body = data[:_SELECTOR].hex(), data[_SELECTOR:]
    known = _CALLS.get(selector)
    words = [body[at : at + _WORD] for at in range(0, len(body), _WORD)]
    if known is None:
        return [f"Calls: function 0x{selector}, which is NOT DECODED; {len(body)} bytes follow"]
    name, kinds = known
    if len(body) != _WORD * len(kinds) or any(
        kind == "address" and any(word[: _WORD - _ADDRESS])
        for kind, word in zip(kinds, words, strict=True)
    ):
        return [f"Calls: {name}, with arguments that are NOT DECODED; {len(body)} bytes follow"]
    told = [
        _hex(word[-_ADDRESS:]) if kind == "address" else str(int.from_bytes(word, "big"))
        for kind, word in zip(kinds, words, strict=True)
    ]
    amount = told[-1]
    lines = [f"Calls: {name}({', '.join(told)})"]
    if name in {"approve", "increaseAllowance"}:
        much = "ANY AMOUNT" if int(amount) == _UNLIMITED else amount
        lines += [f"Lets {told[0]} take {much} of the token's smallest units"]
    elif name == "transferFrom":
        lines += [f"From: {told[0]}", f"Recipient: {told[1]}"]
        lines += [f"Amount: {amount} of the token's smallest units"]
    else:
        lines += [f"Recipient: {told[0]}", f"Amount: {amount} of the token's smallest units"]
    return lines


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"


def _coins(wei: int, coin: str) -> str:
    return f"{_decimal(wei, _DECIMALS)} {coin} ({wei} wei)"


def _gwei(wei: int) -> str:
    return f"{_decimal(wei, 9)} gwei"


def _decimal(number: int, places: int) -> str:
    digits = str(number).rjust(places + 1, "0")
    rest = digits[-places:].rstrip("0")
    return f"{digits[:-places]}.{rest}" if rest else digits[:-places]


def _bytes(item: _Item) -> bytes:
    if isinstance(item, list):
        raise ValueError("a field of it is a list")  # noqa: TRY004  one kind for all unreadable
    return item


def _number(data: bytes) -> int:
    if data[:1] == b"\0" or len(data) > _WORD:
        raise ValueError("a number in it is not canonical")
    return int.from_bytes(data, "big")


def _decode(data: bytes) -> "list[_Item]":
    item, end = _item(data, 0, len(data), 0)
    if end != len(data) or not isinstance(item, list):
        raise ValueError("it is no list in RLP that ends where it ends")
    return item


_DEEPEST: Final = 8


def _item(data: bytes, at: int, limit: int, depth: int) -> "tuple[_Item, int]":
    """Read one item; tells where it ends."""
    if at >= limit or depth > _DEEPEST:
        raise ValueError("it ends too early, or is nested too deep")
    head = data[at]
    if head < _STRING:
        return data[at : at + 1], at + 1
    start, end = _span(data, at, limit)
    if head < _LIST:
        content = data[start:end]
        if len(content) == 1 and content[0] < _STRING:
            raise ValueError("it is not canonical RLP")
        return content, end
    items: list[_Item] = []
    while start < end:
        item, start = _item(data, start, end, depth + 1)
        items.append(item)
    return items, end


def _span(data: bytes, at: int, limit: int) -> tuple[int, int]:
    """Tell where the content of an item begins and ends."""
    head = data[at]
    length = head - (_LIST if head >= _LIST else _STRING)
    start = at + 1
    if length > _SHORT:
        size = length - _SHORT
        digits = data[start : start + size]
        length = int.from_bytes(digits, "big")
        start += size
        # The long form is canonical only where the short one cannot say it.
        if start > limit or digits[0] == 0 or length <= _SHORT:
            raise ValueError("it is not canonical RLP")
    if start + length > limit:
        raise ValueError("it ends too early")
    return start, start + length
