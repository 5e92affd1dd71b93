"""Pseudonyms: the same for the same user, another under another key, and those of the standard."""

import hashlib
import hmac

import pytest

from reranker.errors import ConfigError
from reranker.utils.pseudonyms import Pseudonyms

KEY = b"sixteen bytes!!!"


def test_they_are_hmacs_of_the_id():
    expected = hmac.new(KEY, b"196", hashlib.sha256).hexdigest()[:32]
    assert Pseudonyms(KEY).of("196") == Pseudonyms(KEY).of(196) == f"p-{expected}"
    assert Pseudonyms(KEY).of("197") != Pseudonyms(KEY).of("196") != Pseudonyms(b"another sixteen!").of("196")


def test_a_key_comes_from_a_file_and_its_line_end_is_no_part_of_it(tmp_path):
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert Pseudonyms.read(tmp_path / "key").of("u") == Pseudonyms(KEY).of("u")
    with pytest.raises(ConfigError, match="cannot read the key"):
        Pseudonyms.read(tmp_path / "none")
    with pytest.raises(ConfigError, match="at least 16 bytes, got 3"):
        Pseudonyms(b"abc")


def test_users_are_looked_for_under_ids_and_pseudonyms():
    assert Pseudonyms(KEY).names([7, "u"]) == {"7", "u", Pseudonyms(KEY).of(7), Pseudonyms(KEY).of("u")}
