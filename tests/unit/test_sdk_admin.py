"""The operator's calls against nodes that fail on demand: who is asked next, and what is known of a change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import holdfast
from holdfast.admin import Admin
from holdfast.errors import StoreFailed
from holdfast_ctl import report
from holdfast_ctl.cli import main
from holdfastpb.v1 import admin_pb2, types_pb2
from tests.support.faulty_server import Fault, Running, running

DRAIN = admin_pb2.ChangeRequest(drain="n6", apply=True)


@pytest.fixture
def servers() -> Iterator[Running]:
    with running(2) as found:
        yield found


@pytest.fixture
def admin(servers: Running) -> Iterator[Admin]:
    with Admin(servers.endpoints, timeout_s=0.5) as found:
        yield found


def test_a_node_that_stands_still_is_left(servers: Running, admin: Admin) -> None:
    still = servers.servers[0].faults["Status"]
    still.extend([Fault(hang=True)] * 2)
    assert admin.status().epoch == 1
    assert admin.status().epoch == 1
    assert len(still) == 1, "the second time nobody waits for it"


def test_nobody_answers_if_all_stand_still(servers: Running, admin: Admin) -> None:
    for server in servers.servers:
        server.faults["Status"].append(Fault(hang=True))
    with pytest.raises(holdfast.Unreachable) as caught:
        admin.status()
    assert [item.who for item in caught.value.evidence] == servers.endpoints.split(",")


@pytest.mark.parametrize("fault", [Fault(when="after"), Fault(when="after", hang=True)])
def test_a_change_whose_answer_is_lost_is_sent_once_and_its_outcome_unknown(
    servers: Running, admin: Admin, fault: Fault
) -> None:
    for server in servers.servers:
        server.faults["Change"].append(fault)
    with pytest.raises(holdfast.OutcomeUnknown):
        admin.change(DRAIN)
    assert servers.state.changes == 1


def test_a_change_that_was_not_sent_is_sent_elsewhere(servers: Running, admin: Admin) -> None:
    servers.kill(0)
    assert admin.change(DRAIN).applied
    assert servers.state.changes == 1


def test_a_node_without_a_map_passes_a_change_on(servers: Running, admin: Admin) -> None:
    servers.servers[0].faults["Change"].append(Fault(types_pb2.ERROR_CODE_NOT_INITIALISED))
    assert admin.change(DRAIN).applied


def test_a_node_whose_store_has_failed_speaks_for_nobody(servers: Running, admin: Admin) -> None:
    failed = Fault(types_pb2.ERROR_CODE_STORE_FAILED)
    servers.servers[0].faults["Status"].append(failed)
    assert admin.status().epoch == 1
    servers.servers[1].faults["Identify"].append(failed)
    assert admin.change(DRAIN).applied
    assert servers.state.changes == 1
    for server in servers.servers:
        server.faults["Status"].append(failed)
    with pytest.raises(StoreFailed) as caught:
        admin.status()
    assert [(item.who, item.said) for item in caught.value.evidence] == [("n1", "no")] * 2


def test_what_a_change_came_to_is_not_known_if_the_store_failed_meanwhile(
    servers: Running, admin: Admin
) -> None:
    servers.servers[0].faults["Change"].append(Fault(types_pb2.ERROR_CODE_STORE_FAILED))
    with pytest.raises(holdfast.OutcomeUnknown):
        admin.change(DRAIN)
    assert servers.state.changes == 0


def test_what_only_looks_is_asked_of_the_next(servers: Running, admin: Admin) -> None:
    servers.servers[0].faults["Change"].append(Fault())
    assert admin.change(admin_pb2.ChangeRequest(drain="n6")).epoch == 1


@pytest.mark.parametrize("faults", [[], [Fault()]])
def test_an_answer_that_is_cut_short_is_no_answer(servers: Running, faults: list[Fault]) -> None:
    servers.state.proof = [admin_pb2.ProveReply(blobs=1)]
    servers.servers[0].faults["Prove"].extend(faults)
    with Admin(servers.endpoints) as admin, pytest.raises(holdfast.Unavailable, match="cut short"):
        list(admin.prove())
    assert main(["--endpoints", servers.endpoints, "prove"]) == 1


def test_a_proof_names_no_more_than_people_read(
    servers: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "ROWS_MAX", 3)
    half = [admin_pb2.AtRisk(bucket="b", key=b"k") for _ in range(report.ROWS_MAX)]
    servers.state.proof = [admin_pb2.ProveReply(at_risk=half)] * 2 + [admin_pb2.ProveReply(finished=True)]
    assert main(["--endpoints", servers.endpoints, "prove"]) == 1
    said = capsys.readouterr().out
    assert said.count("b/k") == report.ROWS_MAX
    assert f"and {report.ROWS_MAX} more" in said
    assert main(["--endpoints", servers.endpoints, "prove", "--json"]) == 1
    assert capsys.readouterr().out.count('"key"') == 2 * report.ROWS_MAX
