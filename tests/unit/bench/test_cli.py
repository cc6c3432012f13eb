from __future__ import annotations

import pytest

from tests.bench.cli import main, names

KNOWN = ["direct", "nodemesh", "envoy"]


@pytest.mark.parametrize("text", ["", " ", "all", ","])
def test_nothing_named_is_everything(text: str) -> None:
    assert names(text, KNOWN, "system") == KNOWN


@pytest.mark.parametrize("text", ["envoy,direct", "envoy direct", " direct , envoy, envoy "])
def test_names_come_in_the_known_order_and_once(text: str) -> None:
    assert names(text, KNOWN, "system") == ["direct", "envoy"]


def test_unknown_names_are_all_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown system nginx, squid; known: direct, nodemesh, envoy"):
        names("nginx,envoy,squid", KNOWN, "system")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "http-l8"], "unknown case http-l8; known: http-keepalive-16, "),
        (
            ["--systems", "nginx"],
            "unknown system nginx; known: direct, nodemesh, nodemesh-nosplice, envoy, envoy-hbone, haproxy",
        ),
        (["--topologies", "mars"], "unknown topology mars; known: same-node, cross-node"),
        (["--runs", "0"], "whole number from 1 to 100, not '0'"),
        (["--runs", "-1"], "whole number from 1 to 100, not '-1'"),
        (["--seconds", "1.5"], "whole number from 1 to 300, not '1.5'"),
        (["--idle-connections", "5001"], "whole number from 1 to 5000, not '5001'"),
        (["--soak-seconds", "0"], "whole number from 1 to 3600, not '0'"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
