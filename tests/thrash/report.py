"""The table at the end of a run. It counts and words what the run found, and decides nothing but the exit status."""

from __future__ import annotations

from tests.thrash.run import Verdict

LOST = ("is absent", "cannot be read", "acked")
RESURRECTED = ("RESURRECTED", "and back as version")
RARE_EVENTS = (
    "index_full",
    "index_has_room",
    "spare_volume_refused",
    "store_failed",
    "store_suspect",
    "partitions_learned",
    "blob_recoded",
    "nodes_given_up",
    "node_taken_back",
    "volume_removed",
    "versions_expired",
    "rot_found",
)
"""What is only tested if it happened."""
NOT_LINEARIZABLE = "NOT LINEARIZABLE"
SHOWN_MAX = 40


def unused(verdict: Verdict) -> list[str]:
    """Nemeses that could have struck and did not."""
    return [name for name, count in verdict.counts.items() if not count]


def failed(verdict: Verdict) -> bool:
    disagreements = any(audit.disagreements for audit in verdict.audits)
    return bool(verdict.wrong or verdict.undecided or unused(verdict) or disagreements)


def table(verdict: Verdict) -> str:
    load = verdict.load
    assert load is not None
    record = load.record
    unknown = sum(op.returned == float("inf") for ops in record.history.values() for op in ops)
    acked = sum(op.version > 0 and op.kind.value != "read" for ops in record.history.values() for op in ops)
    sorts = _sorts(verdict.wrong)
    rate = load.calls.total() / max(verdict.seconds, 1.0)
    rows: list[tuple[str, object]] = [
        ("seed", verdict.seed),
        ("seconds", f"{verdict.seconds:.0f}"),
        ("operations", f"{load.calls.total()} ({rate:.0f} a second)"),
        ("  by kind", ", ".join(f"{what} {count}" for what, count in sorted(load.calls.items()))),
        ("acked writes", acked + record.puts),
        ("unknown outcomes", unknown),
        (
            "bulk bytes put, read",
            f"{record.bytes_put / 1024**2:.0f} MiB, {record.bytes_got / 1024**2:.0f} MiB",
        ),
        (
            "errors callers saw",
            ", ".join(f"{name} {n}" for name, n in sorted(record.errors.items())) or "none",
        ),
        ("slowest call", f"{load.slowest[0]:.1f} s ({load.slowest[1]})"),
        ("healthy after faults stopped", ", ".join(f"{seconds:.0f}" for seconds in verdict.heal_s) + " s"),
        ("histories judged", verdict.histories),
        ("  not judged in time", len(verdict.undecided)),
        ("  excused by their acks", len(load.excused)),
        *(("nodes told: " + event, verdict.told[event]) for event in RARE_EVENTS),
        *(("nemesis: " + name, count) for name, count in sorted(verdict.counts.items())),
        *(("left out: " + name, why) for name, why in sorted(verdict.missing.items())),
        *((sort, count) for sort, count in sorts.items()),
        ("audits", len(verdict.audits)),
        ("auditor's disagreements", sum(len(audit.disagreements) for audit in verdict.audits)),
    ]
    lines = [f"{name:<30} {value}" for name, value in rows]
    if verdict.frozen is not None:
        lines += str(verdict.frozen).splitlines()
    lines += [f"WRONG: {line}" for line in verdict.wrong[:SHOWN_MAX]]
    lines += [f"AUDIT: {line}" for audit in verdict.audits for line in audit.disagreements[:SHOWN_MAX]]
    lines += [f"NOT JUDGED: {key}" for key in verdict.undecided[:SHOWN_MAX]]
    lines += [f"NEVER STRUCK: {name}" for name in unused(verdict)]
    lines.append("every promise was kept" if not failed(verdict) else "PROMISES WERE BROKEN")
    return "\n".join(lines)


def _sorts(wrong: list[str]) -> dict[str, int]:
    counted = {"lost": 0, "wrong": 0, "non-linearizable": 0, "resurrected": 0}
    for line in wrong:
        if any(word in line for word in RESURRECTED):
            counted["resurrected"] += 1
        elif NOT_LINEARIZABLE in line:
            counted["non-linearizable"] += 1
        elif any(word in line for word in LOST):
            counted["lost"] += 1
        else:
            counted["wrong"] += 1
    return counted
