"""Passwords of a session's database: how they are made, and how they stay out of what people read."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable

from pipeline.databases.engine import Password

_ALPHABET = string.ascii_letters + string.digits


def new_password() -> Password:
    """Random; a letter first and only letters and digits, which every tool takes unquoted; within the 30 bytes that some databases allow."""
    while True:
        text = secrets.choice(string.ascii_letters) + "".join(secrets.choice(_ALPHABET) for _ in range(23))
        if any(sign.islower() for sign in text) and any(sign.isupper() for sign in text) and any(sign.isdigit() for sign in text):
            return Password(text)


def masked(text: bytes, passwords: Iterable[Password]) -> bytes:
    """`text` without these passwords."""
    for password in passwords:
        text = text.replace(password.value.encode(), b"***")
    return text
