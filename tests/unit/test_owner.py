"""Whose scan it is."""

import pytest

from srctd.config import AccountRule
from srctd.core.errors import HoldError
from srctd.taskfolder import owner_of

RULE = AccountRule(
    pattern=r"/data/(?P<proposal>[a-z]{2}\d+)/",
    account="{proposal}",
    owner_group="g-{proposal}",
    access_groups=("staff", "{proposal}"),
    proposal="{proposal}",
)


def test_named_groups_of_the_path_fill_the_rule() -> None:
    owner = owner_of("/data/mt123/a.h5", (RULE,))
    assert (owner.account, owner.owner, owner.owner_group) == ("mt123", "mt123", "g-mt123")
    assert owner.access_groups == ("staff", "mt123")
    assert owner.proposal == "mt123"
    assert RULE.pattern in owner.origin


def test_the_first_rule_that_fits_decides_and_none_means_unassigned() -> None:
    everything = AccountRule(pattern=".", account="rest")
    assert owner_of("/data/mt123/a.h5", (RULE, everything)).account == "mt123"
    assert owner_of("/data/x/a.h5", (RULE, everything)).account == "rest"
    assert owner_of("/data/x/a.h5", (RULE,)).account == "unassigned"


@pytest.mark.parametrize("account", ["../etc", "a/b", "..", ".hidden", ""])
def test_an_account_never_leaves_the_shared_folder(account: str) -> None:
    rule = AccountRule(pattern=r"/data/(?P<name>.*)/a\.h5", account="{name}")
    with pytest.raises(HoldError, match="is no folder name"):
        owner_of(f"/data/{account}/a.h5", (rule,))
