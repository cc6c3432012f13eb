"""What the agent says about a kernel that cannot do what it needs."""

from __future__ import annotations

import errno
import os

import pytest

from nodeagent.loader import features
from nodeagent.loader.errors import BpfError, FeatureMissingError
from nodeagent.loader.features import Feature, Features, Support, _probe_one


def failing(code: int) -> Feature:
    def attempt() -> None:
        raise BpfError("cannot", code)

    return _probe_one("thing", "CONFIG_THING", attempt)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def test_a_kernel_that_does_not_know_lacks_the_feature(code: int) -> None:
    assert failing(code).support is Support.NO


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.EACCES])
def test_a_probe_that_fails_otherwise_proves_nothing(code: int) -> None:
    feature = failing(code)
    assert feature.support is Support.UNKNOWN
    assert os.strerror(code) in feature.detail


def test_a_missing_feature_names_the_kernel_option() -> None:
    found = Features((Feature("fine", Support.YES, "CONFIG_FINE"), failing(errno.EINVAL)))
    with pytest.raises(FeatureMissingError, match="CONFIG_THING") as raised:
        found.require()
    assert "CONFIG_FINE" not in str(raised.value)


def test_a_failed_probe_names_the_privilege() -> None:
    with pytest.raises(FeatureMissingError, match=r"cannot find out.*Operation not permitted.*CAP_BPF"):
        Features((failing(errno.EPERM),)).require()


def test_one_cause_of_all_failures_is_said_once() -> None:
    with pytest.raises(FeatureMissingError) as raised:
        Features((failing(errno.EPERM), failing(errno.EPERM))).require()
    assert str(raised.value).count("Operation not permitted") == 1


def test_where_everything_is_there_nothing_is_said() -> None:
    Features((Feature("fine", Support.YES, "CONFIG_FINE"),)).require()


def test_instructions_are_whole() -> None:
    assert features._instructions() == bytes.fromhex("bf16000000000000b7000000010000009500000000000000")
    assert len(features._instructions(1, 2)) % 8 == 0
